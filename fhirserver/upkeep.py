"""The commands that keep an installation well over the years: keys, backups, audit records, probes."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fhirserver.beside import beside, in_data, with_database
from fhirserver.settings import PREFIX, Settings


@click.command(short_help="Say whether a process of this machine lives: for probes.")
@click.argument("process", metavar="PROCESS", type=click.Choice(["web", "worker", "relay", "mllp"]))
@click.option("--within", type=int, default=30, show_default=True, help="Seconds since it last said so.")
@in_data
def alive(process: str, within: int, data: Path | None) -> None:
    """Say whether a PROCESS (web, worker, relay, mllp) of this data folder lives; exit 1 if none has said so lately.

    It reads a file and asks no database, so it is right for the liveness probe of a container.
    """
    from fhirserver.meters import lives

    settings = Settings.from_env(data=data)
    if not lives(settings.data, process, within):
        raise click.ClickException(f"no {process} has said within {within} seconds that it lives")
    click.echo("ok")


@click.group()
def keys() -> None:
    """The keys that sign tokens."""


@keys.command("list")
@in_data
def list_keys(data: Path | None) -> None:
    """Print each signing key: its id, from when it signs, until when it is known. The one that signs is the first."""
    from fhirserver import local

    for line in local.list_keys(beside(data)):
        click.echo(line)


@keys.command("rotate", short_help="Make a new signing key.")
@click.option("--at-once", is_flag=True, help="Let it sign within seconds, not when key sets have been fetched again.")
@click.option("--revoke", is_flag=True, help="Forget the others at the same time: every token ends. Implies --at-once.")
@in_data
def rotate_keys(at_once: bool, revoke: bool, data: Path | None) -> None:
    """Make a new signing key and print its id. Others stay known until their longest token has expired."""
    from fhirserver import local

    click.echo(local.rotate_keys(beside(data), at_once, revoke))


@click.command(short_help="Write the whole database into a file.")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@in_data
def backup(file: Path, data: Path | None) -> None:
    """Write everything that is in the database, as of one instant, into FILE (`-`: standard output).

    Beside a running installation, or with its databases alone where none runs. The file holds health data that whoever
    has it can read: encrypt it. The master key is not in it; without that, secrets and signing keys cannot be had
    back: keep the two apart. Redis needs no backup. For large databases see docs/operate/production.md.
    """
    from fhirserver import files, local

    with files.written(file) as stream:
        done = with_database(data, lambda settings: local.back_up(settings, stream))
    click.echo(f"{done.documents} documents in {done.collections} collections", err=True)


@click.command(short_help="Put a backup into an empty installation.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@in_data
def restore(file: Path, data: Path | None) -> None:
    """Put what `fhirserver backup` wrote into FILE (`-`: standard input) into an empty database.

    The master key has to be there first: in FHIRSERVER_MASTER_KEY, or as the file master.key in the data folder.
    Nothing may run on the data folder. One that was interrupted is done again with the same file.
    """
    from fhirserver import files, local, supervisor

    mine = Settings.from_env(data=data)
    if supervisor.running(mine.data):
        raise click.ClickException(f"stop `fhirserver up` on {mine.data} first: a backup goes into an empty database")
    supervisor.with_master_key(mine, make=False)
    with files.read(file) as stream:
        done = with_database(data, lambda settings: local.restore(settings, stream))
    click.echo(f"{done.documents} documents in {done.collections} collections")


@click.group("master-key")
def master_key() -> None:
    """The key that encrypts signing keys and webhook secrets in the database."""


@master_key.command("rotate", short_help="Encrypt with a new master key what the former one encrypted.")
@in_data
def rotate_master_key(data: Path | None) -> None:
    """Change the master key. It may be interrupted at any point, and run again.

    Where the key is in the data folder: stop `fhirserver up`, run this, start it again; it encrypts everything anew
    before it is ready, and puts the former key aside. Where it is in FHIRSERVER_MASTER_KEY: put the new one there and
    the former one into FHIRSERVER_FORMER_MASTER_KEY, for all processes, restart them, and run this; exit 0 means that
    nothing in the database needs the former one any more. Backups made before do.
    """
    from fhirserver import local, supervisor

    mine = Settings.from_env(data=data)
    if not mine.master_key:
        click.echo(supervisor.change_master_key(mine))
        return
    if not mine.former_master_key:
        raise click.UsageError(
            f"put the former key into {PREFIX}FORMER_MASTER_KEY, the new one into {PREFIX}MASTER_KEY"
        )
    done = local.rotate_master_key(beside(data))
    for place in done.lost:
        click.echo(f"FAIL {place}: encrypted with neither key", err=True)
    click.echo(f"{done.count} values encrypted anew, {len(done.lost)} documents with values that no key opens")
    sys.exit(1 if done.lost else 0)


@click.group()
def audit() -> None:
    """The audit records of all organizations."""


@audit.command("verify")
@click.option("--organization", help="Id of the Organization, or `registry`.  [default: all]")
@click.option("--head", default="", help="A head printed or logged before, which must still be in the chain.")
@in_data
def verify_audit(organization: str | None, head: str, data: Path | None) -> None:
    """Recompute the seals of the audit records; exit 1 if a record or seal was changed, taken away or put in."""
    from fhirserver import local

    if head and not organization:
        raise click.UsageError("--head belongs to one organization: give --organization too")
    wrong = 0
    for report in local.verify_audit(beside(data), organization or "", head):
        wrong += len(report.findings)
        for finding in report.findings:
            click.echo(f"FAIL {report.organization}: {finding}")
        retired = f", those of {report.retired} seals retired" if report.retired else ""
        click.echo(
            f"{'FAIL' if report.findings else 'ok':5}{report.organization}: {report.records} records in {report.seals} "
            f"seals, {report.unsealed} not sealed yet{retired}; head {report.head or 'none'}"
        )
    sys.exit(1 if wrong else 0)


COMMANDS: tuple[click.Command, ...] = (keys, master_key, backup, restore, audit, alive)
