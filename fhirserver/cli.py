"""The command line, for people, scripts and the supervisor's child processes.

Commands that touch the database work beside it only: they use the installation that runs on the data folder, or the
database that the settings name, with its credentials.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from fhirserver import logs, upkeep
from fhirserver.beside import beside, in_data
from fhirserver.remote.commands import api
from fhirserver.settings import PREFIX, Settings, SettingsError


def main() -> None:
    """The console script `fhirserver`."""
    # The definitions are large and stay: with Python's own threshold a fifth of a start goes into looking through them.
    gc.set_threshold(50_000, 20, 20)
    try:
        commands(standalone_mode=False)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:  # who reads, like `head`, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:  # the edge of the process: whatever it is, say so without what it may name
        if not isinstance(error, _told()):
            logging.getLogger(__name__).exception("this is a fault of the program; it ends")
            sys.exit(1)
        click.echo(f"fhirserver: {error}", err=True)
        sys.exit(2)


def _told() -> tuple[type[Exception], ...]:
    """The errors whose text is for whoever called."""
    from fhirserver import embedded, supervisor
    from fhirserver.fhir.problem import Problem

    return SettingsError, supervisor.CannotRun, embedded.Missing, Problem


class Sections(click.Group):
    """A group whose help lists its commands by what one wants."""

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in SECTIONS.items():
            with formatter.section(title):
                found = [(name, self.commands[name]) for name in names if name in self.commands]
                formatter.write_dl([(name, each.get_short_help_str(80)) for name, each in found])


SECTIONS = {
    "To run it": ("up", "demo", "check", "settings"),
    "To set it up": ("organization", "user", "endpoint", "package", "load", "token"),
    "To call it": ("api", "hl7v2"),
    "To keep it well": ("backup", "restore", "audit", "keys", "master-key"),
    "Its processes, for a supervisor of yours": ("prepare", "web", "worker", "relay", "mllp", "alive"),
}
"""By what one wants: the commands, each in one place."""


@click.group(cls=Sections, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="fhirserver")
def commands() -> None:
    """A FHIR R4 exchange between application providers and provider organizations.

    Begin with `fhirserver up`: it prints where everything is and the operator's first password. Settings come from
    environment variables (`fhirserver settings` lists them); every command says more with --help.
    """


for _command in (api, *upkeep.COMMANDS):
    commands.add_command(_command)


@commands.command(short_help="Run everything in the foreground.")
@in_data
@click.option("--host", help="Address of the web server.")
@click.option("--port", type=int, help="Port of the web server.")
@click.option("--mllp-port", type=int, help="Port of the HL7v2 listener.")
@click.option("--workers", type=int, help="Web worker processes.")
def up(data: Path | None, host: str | None, port: int | None, mllp_port: int | None, workers: int | None) -> None:
    """Run everything in the foreground; ready when GET /healthz answers 200, stopped with Ctrl-C.

    Starts a MongoDB and a Redis of its own under the data folder, for development, unless FHIRSERVER_MONGO_URL and
    FHIRSERVER_REDIS_URL name yours. The first time it prints the operator's password. Other commands find what runs
    by its data folder.
    """
    from fhirserver import supervisor

    settings = Settings.from_env(data=data, host=host, port=port, mllp_port=mllp_port, workers=workers)
    logs.configure(settings.log_level, settings.log_format, "supervisor")
    supervisor.up(settings, click.echo, supervisor.Ours(_load, _live))


@commands.command(short_help="Print every setting: value in force and meaning.")
@in_data
def settings(data: Path | None) -> None:
    """Print every setting, its value in force and its meaning; secrets are masked."""
    for name, value, says in Settings.from_env(data=data).rows():
        click.echo(f"{name}={value}")
        click.echo(click.wrap_text(says, width=100, initial_indent="    ", subsequent_indent="    "))


@commands.command(short_help="Check settings, database, queue, definitions, mappings.")
@in_data
def check(data: Path | None) -> None:
    """Check settings, database, queue, definitions and mappings; exit 1 if something is wrong."""
    from fhirserver import local

    wrong = 0
    for name, fault in local.check(beside(data)):
        wrong += bool(fault)
        click.echo(f"{'FAIL' if fault else 'ok':5}{name}{f': {fault}' if fault else ''}")
    sys.exit(1 if wrong else 0)


@commands.group()
def organization() -> None:
    """Application providers and provider organizations."""


@organization.command("create")
@click.argument("name")
@click.option("--kind", type=click.Choice(["provider", "application"]), default="provider", show_default=True,
              help="A hospital, or the makers of applications.")  # fmt: skip
@in_data
def create_organization(name: str, kind: str, data: Path | None) -> None:
    """Create an Organization and print its id."""
    from fhirserver import local

    click.echo(local.create_organization(beside(data), name, kind))


@commands.group()
def user() -> None:
    """People who act for an organization."""


@user.command("create")
@click.argument("email")
@click.option("--organization", required=True, help="Id of the Organization.")
@click.option("--role", type=click.Choice(["admin", "member"]), default="member", show_default=True,
              help="Who decides for the organization, or who looks.")  # fmt: skip
@in_data
def create_user(email: str, organization: str, role: str, data: Path | None) -> None:
    """Create a User, or give one another role, and print the id.

    The person sets a password with what `fhirserver user link` prints.
    """
    from fhirserver import local

    click.echo(local.create_user(beside(data), email, organization, role))


@user.command("link")
@click.argument("email")
@in_data
def link_user(email: str, data: Path | None) -> None:
    """Print a link with which a User sets a password, once and within a day."""
    from fhirserver import local

    click.echo(local.password_link(beside(data), email))


@commands.command(short_help="Print an access token of an operator or a user.")
@click.option("--organization", help="Id of the Organization whose base a local operator is to use.")
@click.option("--scope", help="Scopes of the operator's token.  [default: system/*.cruds]")
@click.option("--user", help="E-mail address of the User to act as.")
@in_data
def token(organization: str | None, scope: str | None, user: str | None, data: Path | None) -> None:
    """Print an access token: of a local operator for an organization's base and the registry, or of a user."""
    from fhirserver import local

    if bool(organization) == bool(user):
        raise click.UsageError("give either --organization or --user")
    if user and scope:
        raise click.UsageError("--scope goes with --organization; a user's token has the scopes of the user's role")
    settings = beside(data)
    if user:
        click.echo(local.user_token(settings, user))
    else:
        click.echo(local.operator_token(settings, str(organization), scope or "system/*.cruds"))


@commands.group()
def endpoint() -> None:
    """Where HL7v2 messages come from."""


@endpoint.command("create", short_help="Say whose messages a sender's are.")
@click.option("--organization", required=True, help="Id of the Organization that the messages belong to.")
@click.option("--sending-application", help="MSH-3 of the sender.")
@click.option("--sending-facility", help="MSH-4 of the sender.")
@click.option("--default", "is_default", is_flag=True, help="Take messages that no other Endpoint names the sender of.")
@click.option("--timezone", help="Zone of its times without an offset, such as Europe/Vienna.")
@in_data
def create_endpoint(
    organization: str,
    sending_application: str | None,
    sending_facility: str | None,
    is_default: bool,
    timezone: str | None,
    data: Path | None,
) -> None:
    """Create an Endpoint that says whose messages a sender's are, and print its id."""
    from fhirserver import local

    if not (sending_application or sending_facility or is_default):
        raise click.UsageError("give --sending-application, --sending-facility or --default")
    made = local.create_endpoint(
        beside(data),
        organization,
        sending_application=sending_application or "",
        sending_facility=sending_facility or "",
        default=is_default,
        timezone=timezone or "",
    )
    click.echo(made)


@commands.group()
def hl7v2() -> None:
    """Send HL7v2 messages, or see what they become."""


_file = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))


@hl7v2.command("send")
@_file
@click.option("--to", metavar="HOST:PORT", help="The listener.  [default: that of the data folder's installation]")
@in_data
def send_messages(file: Path, to: str | None, data: Path | None) -> None:
    """Send the messages of FILE over MLLP and print their acknowledgments; exit 1 if one is not accepted."""
    from fhirserver import supervisor
    from fhirserver.hl7v2.ack import answer_code
    from fhirserver.hl7v2.batch import messages_in
    from fhirserver.hl7v2.send import send

    settings = supervisor.running(Settings.from_env(data=data).data) or Settings.from_env(data=data)
    host, _, port = (to or f"{settings.mllp_host}:{settings.mllp_port}").rpartition(":")
    if not host or not port.isdecimal():
        raise click.UsageError("--to wants HOST:PORT, like 127.0.0.1:2575")
    refused = 0
    try:
        for answer in send(messages_in(file.read_bytes()), host.strip("[]"), int(port)):
            text = answer.decode("utf-8", "replace").replace("\r", "\n")
            refused += answer_code(answer) not in ("AA", "CA")
            click.echo(text)
    except OSError as error:
        raise click.ClickException(f"{host}:{port}: {error.strerror or error}") from None
    sys.exit(1 if refused else 0)


@hl7v2.command("load")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--organization", required=True, help="Id of the Organization whose messages these are.")
@in_data
def load_messages(files: tuple[Path, ...], organization: str, data: Path | None) -> None:
    """Take the messages of FILES (one or many in each, batches too) for an organization, as if they had been sent.

    What was taken before is not taken again. Exits with 1 if any is not accepted (AE, AR).
    """
    from fhirserver import local

    seen = local.take_messages(beside(data), files, organization)
    click.echo(", ".join(f"{number} {name}" for name, number in sorted(seen.items())) or "no messages")
    sys.exit(1 if any(seen[code] for code in ("AE", "AR", "CE", "CR")) else 0)


@hl7v2.command("convert")
@_file
@click.option("--organization", required=True, help="Id of the Organization whose messages these would be.")
@in_data
def convert_messages(file: Path, organization: str, data: Path | None) -> None:
    """Print the FHIR Bundle that each message of FILE would become, one a line; nothing is stored."""
    from fhirserver import local

    for bundle in local.convert(beside(data), file.read_bytes(), organization):
        click.echo(bundle)


@commands.command(short_help="Store resources from NDJSON and Bundle files.")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--organization", required=True, help="Id of the Organization whose base takes them.")
@click.option("--no-validate", is_flag=True, help="Store them unchecked: for data that this server has exported.")
@in_data
def load(files: tuple[Path, ...], organization: str, no_validate: bool, data: Path | None) -> None:
    """Store resources from FILES (.ndjson or Bundles in .json, .gz or not); what is there already stays as it is.

    Nobody is notified of them. Exits with 1 if any was refused.
    """
    from fhirserver import local

    done = local.load(beside(data), files, organization, not no_validate, lambda so_far: None)
    for reason in done.reasons:
        click.echo(reason, err=True)
    click.echo(f"{done.stored} stored, {done.there} were there already, {done.refused} refused")
    sys.exit(1 if done.refused else 0)


@commands.group(short_help="Implementation guides: profiles, terminology, ...")
def package() -> None:
    """Implementation guides: profiles, extensions, terminology, search parameters."""


@package.command("load")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@in_data
def load_package(file: Path, data: Path | None) -> None:
    """Load a FHIR package (FILE.tgz) into the registry; what is there in that version stays as it is.

    From then on meta.profile that names one of its profiles is checked. Exits with 1 if any resource was refused.
    """
    from fhirserver import local

    done = local.load_package(beside(data), file)
    for reason in done.refused:
        click.echo(reason, err=True)
    click.echo(
        f"{done.stored} stored, {done.there} were there already, {len(done.refused)} refused, "
        f"{done.others} of other kinds left out"
    )
    sys.exit(1 if done.refused else 0)


@commands.command(short_help="Play the whole story on a data folder of its own.")
@click.option("--keep", is_flag=True, help="Leave it running afterwards.")
def demo(keep: bool) -> None:
    """Play the whole story on a fresh data folder: register, authorize, subscribe, receive, notify.

    The folder is thrown away at the end; what runs on other folders is left alone.
    """
    from fhirserver import demo as story

    settings = Settings.from_env()
    logs.configure("warning", "text", "demo")
    sys.exit(story.play(settings, keep))


def _prepare(settings: Settings) -> None:
    from fhirserver import local

    click.echo(local.first_credentials(settings))


def _web(settings: Settings) -> None:
    from fhirserver import serve

    serve.web(settings)


def _worker(settings: Settings) -> None:
    from fhirserver import processes

    processes.worker(settings)


def _relay(settings: Settings) -> None:
    from fhirserver import processes

    processes.relay(settings)


def _mllp(settings: Settings) -> None:
    from fhirserver import processes

    processes.listener(settings)


# What the supervisor gives its child processes to do; commands too, for who has a supervisor of his own.
_LIVES: dict[str, tuple[str, Callable[[Settings], object]]] = {
    "prepare": ("Lay the ground in the database, and print the first operator's password the first time.", _prepare),
    "web": ("Serve HTTP: the API, sign-in and the console.", _web),
    "worker": ("Run jobs from the queue: map messages, deliver notifications.", _worker),
    "relay": ("Turn events into deliveries, ship audit records, tell metrics.", _relay),
    "mllp": ("Listen for HL7v2 messages.", _mllp),
}


_BOTH = "Needs FHIRSERVER_MONGO_URL and FHIRSERVER_MASTER_KEY"
_NEEDS = {
    "prepare": f"{_BOTH}. Run it once before the others, at each new version; it may run twice.",
    "web": f"{_BOTH}. Ends with SIGTERM.",
    "worker": f"{_BOTH}, and FHIRSERVER_REDIS_URL. As many as the load wants. Ends with SIGTERM.",
    "relay": f"{_BOTH}, and FHIRSERVER_REDIS_URL. One on each machine that runs another: it ships the audit records of "
    "the machine's data folder. Ends with SIGTERM.",
    "mllp": f"{_BOTH}. Ends with SIGTERM.",
}


def _live(name: str) -> None:
    """The life of a child process."""
    settings = Settings.from_env()
    # Whoever only puts jobs can do without the queue: the relay sweeps them up.
    needed = ("mongo_url", "master_key", *(("redis_url",) if name in ("worker", "relay") else ()))
    missing = [each for each in needed if not getattr(settings, each)]
    if missing:
        names = ", ".join(PREFIX + each.upper() for each in missing)
        raise click.ClickException(f"`fhirserver {name}` needs {names}; `fhirserver up` gives them to its processes")
    logs.configure(settings.log_level, settings.log_format, name)
    _LIVES[name][1](settings)


def _load() -> None:
    """Imports and compiles what all child processes need, so that they begin with it."""
    from fhirserver import app, local, processes, serve  # noqa: F401 - loaded for those who are forked

    app.loaded()


for _name, (_says, _) in _LIVES.items():
    commands.command(_name, help=f"{_says}\n\n{_NEEDS[_name]}", short_help=_says)(partial(_live, _name))
