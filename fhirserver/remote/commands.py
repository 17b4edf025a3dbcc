"""`fhirserver api`: the interactions of FHIR from the command line, with this or any other server. FHIR R4: http.

Exit codes: 0 done; 1 the server refused, said on standard error; 2 called wrongly; 3 the server cannot be reached.
What is slow to import is imported by the commands themselves.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import click

from fhirserver.remote import profiles
from fhirserver.remote.profiles import AUTHENTICATION, Profile

if TYPE_CHECKING:
    from fhirserver.remote.calls import Calls, Pairs

P = ParamSpec("P")


@click.group()
def api() -> None:
    """Call this or any other FHIR server.

    The first word after a command is the version of FHIR (r4). DATA is the text itself, @FILE, or - for standard input,
    which is also read where no data is given.
    """


@dataclass(frozen=True, slots=True)
class _Where:
    profile: str = ""
    base_url: str = ""
    timeout: float = 60.0

    def calls(self) -> Calls:
        from fhirserver.remote.calls import Calls
        from fhirserver.remote.wire import Wire

        if self.base_url:
            known = Profile("") if not self.profile else profiles.load().named(self.profile)
            found = replace(known, base_url=profiles.checked_base(self.base_url))
        else:
            found = profiles.load().named(self.profile)
        return Calls(found, Wire(self.timeout, found.ca_file))


def _call(name: str) -> Callable[[Callable[P, None]], click.Command]:
    """A command with the version of FHIR and the options that say which server."""

    def made(function: Callable[P, None]) -> click.Command:
        @wraps(function)
        def run(*args: Any, fhir_version: str, profile: str, base_url: str, timeout: float, **rest: Any) -> None:
            function(_Where(profile, base_url, timeout).calls(), *args, **rest)  # type: ignore[arg-type] # click's

        decorated: Any = run
        for option in (
            click.option("--timeout", type=click.FloatRange(0.1), default=60.0, show_default=True, help="Seconds."),
            click.option("--base-url", default="", help="Call this server instead of the profile's."),
            click.option("--profile", default="", help="The server to call.  [default: the profile in use]"),
            click.argument("fhir_version", type=click.Choice(["r4"], case_sensitive=False), metavar="r4"),
        ):
            decorated = option(decorated)
        return api.command(name)(decorated)

    return made


_words = click.argument("words", nargs=-1, metavar="[TYPE [ID]]")
_data = click.option("--data", metavar="DATA", help="The text, @FILE, or - for standard input.")
_file = click.option("--file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A file of data.")
_if_match = click.option("--if-match", default="", metavar="VERSION", help="Only if this is still the version.")
_query = click.argument("query", nargs=-1, metavar="[NAME=VALUE]...")
_all = click.option("--all", "every", is_flag=True, help="Follow the next links; print each resource on a line.")


@_call("create")
@_words
@_data
@_file
@click.option("--if-none-exist", default="", metavar="QUERY", help="Only if this search finds nothing.")
def create(calls: Calls, words: tuple[str, ...], data: str | None, file: Path | None, if_none_exist: str) -> None:
    """Store a resource; where the data has an id, under that id (PUT)."""
    body, resource = _resource(data, file)
    type_, id = _type_id(words, resource)
    headers = {"Prefer": "return=representation", "If-None-Exist": if_none_exist}
    if id:
        _show(calls, "PUT", f"{type_}/{id}", body=_with_id(body, resource, id), headers=headers)
    else:
        _show(calls, "POST", type_, body=body, headers=headers)


@_call("read")
@_words
@click.option("--version", default="", help="This version of it.")
def read(calls: Calls, words: tuple[str, ...], version: str) -> None:
    """Print a resource."""
    _show(calls, "GET", _path(words, 2) + (f"/_history/{_segment(version)}" if version else ""))


@_call("search")
@click.argument("words", nargs=-1, metavar="[TYPE] [NAME=VALUE]...")
@_all
@click.option("--post", is_flag=True, help="Send the criteria in the body, so that they are in no log of addresses.")
def search(calls: Calls, words: tuple[str, ...], every: bool, post: bool) -> None:
    """Search a type (or all, or a compartment like Patient/1/Observation) and print the Bundle.

    Criteria are words like family=Adams birthdate=ge1990; one that begins with ? is sent as it is.
    """
    from urllib.parse import urlencode

    where = tuple(word for word in words[:1] if "=" not in word and not word.startswith("?"))
    path, pairs = "/".join(map(_segment, "/".join(where).split("/"))), _pairs(words[len(where) :])
    if post:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = calls.ask("POST", f"{path}/_search".lstrip("/"), (), urlencode(list(pairs)).encode(), form)
    else:
        answer = calls.ask("GET", path, pairs)
    _show_pages(calls, answer, every)


@_call("update")
@_words
@_data
@_file
@_if_match
@click.option("--where", default="", metavar="QUERY", help="The one resource that this search finds.")
def update(
    calls: Calls, words: tuple[str, ...], data: str | None, file: Path | None, if_match: str, where: str
) -> None:
    """Replace a resource, or create it under the id in the data."""
    body, resource = _resource(data, file)
    type_, id = _type_id(words, resource)
    headers = {"Prefer": "return=representation", "If-Match": _version(if_match)}
    if where:
        _show(calls, "PUT", type_, _pairs((f"?{where.lstrip('?')}",)), body, headers)
    elif id:
        _show(calls, "PUT", f"{type_}/{id}", body=_with_id(body, resource, id), headers=headers)
    else:
        raise click.UsageError("say which: TYPE ID, an id in the data, or --where")


@_call("patch")
@_words
@_data
@_file
@_if_match
def patch(calls: Calls, words: tuple[str, ...], data: str | None, file: Path | None, if_match: str) -> None:
    """Change a part of a resource: a JSON Patch (an array), or a FHIRPath Patch (Parameters)."""
    body, given = _json(data, file)
    kind = "application/json-patch+json" if isinstance(given, list) else "application/fhir+json"
    headers = {"Prefer": "return=representation", "If-Match": _version(if_match), "Content-Type": kind}
    _show(calls, "PATCH", _path(words, 2), body=body, headers=headers)


@_call("delete")
@_words
@_if_match
def delete(calls: Calls, words: tuple[str, ...], if_match: str) -> None:
    """Delete a resource."""
    _show(calls, "DELETE", _path(words, 2), headers={"If-Match": _version(if_match)})


@_call("history")
@click.argument("words", nargs=-1, metavar="[TYPE [ID]] [NAME=VALUE]...")
@_all
def history(calls: Calls, words: tuple[str, ...], every: bool) -> None:
    """Print the versions of a resource, of a type, or of everything; with _since=, _count= as criteria."""
    names = tuple(word for word in words if "=" not in word)
    path = _path(names, 2, fewest=0)
    pairs = _pairs(word for word in words if "=" in word)
    _show_pages(calls, calls.ask("GET", f"{path}/_history".lstrip("/"), pairs), every)


@_call("transaction")
@_data
@_file
def transaction(calls: Calls, data: str | None, file: Path | None) -> None:
    """Send a Bundle of type transaction or batch; exit 1 if any entry of a batch was refused."""
    from fhirserver.remote.calls import as_object, show

    body, _ = _resource(data, file)
    answer = calls.ask("POST", "", body=body)
    show(answer)
    responses = [entry.get("response", {}) for entry in as_object(answer).get("entry", ())]
    refused = [n for n, said in enumerate(responses) if str(said.get("status", "2"))[:1] not in "23"]
    if refused:
        click.echo(f"refused: entries {', '.join(map(str, refused))} (the first is 0)", err=True)
        sys.exit(1)


@_call("capabilities")
def capabilities(calls: Calls) -> None:
    """Print the CapabilityStatement."""
    _show(calls, "GET", "metadata")


@_call("operation")
@click.argument("name")
@click.argument("words", nargs=-1, metavar="[TYPE [ID]] [NAME=VALUE]...")
@_data
@_file
@click.option("--post", is_flag=True, help="Send POST though there is no data: the operation changes something.")
def operation(calls: Calls, name: str, words: tuple[str, ...], data: str | None, file: Path | None, post: bool) -> None:
    """Invoke an operation, like validate or '$everything'; on everything, a type or a resource.

    With data (Parameters or a resource) by POST, else by GET with the parameters NAME=VALUE.
    """
    target = _path(tuple(word for word in words if "=" not in word), 2, fewest=0)
    pairs = _pairs(word for word in words if "=" in word)
    path = f"{target}/${_segment(name.removeprefix('$'))}".lstrip("/")
    if data is None and file is None and not post:
        _show(calls, "GET", path, pairs)
        return
    body = _json(data, file)[0] if data is not None or file else b'{"resourceType":"Parameters"}'
    _show(calls, "POST", path, pairs, body)


@api.group()
def profile() -> None:
    """The servers to call, and how to authenticate there."""


@profile.command("add", short_help="Remember a server under NAME, or change it.")
@click.argument("name")
@click.option("--base-url", required=True, help="Base URL of its FHIR API.")
@click.option("--auth", type=click.Choice(AUTHENTICATION), default="none", show_default=True)
@click.option("--user", default="", help="User name, for basic.")
@click.option("--client-id", default="", help="Id of the client, for client_credentials.")
@click.option("--secret-file", type=click.File(), help="File (or -) with the password, token or client secret.")
@click.option("--key-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Private key instead.")
@click.option("--key-id", default="", help="Its `kid`.  [default: the key's own, or its thumbprint]")
@click.option("--token-url", default="", help="Token endpoint.  [default: what the server says]")
@click.option("--scope", default="", help="Scopes to ask for.")
@click.option("--ca-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Certificates to trust.")
def add_profile(name: str, base_url: str, auth: str, user: str, client_id: str, secret_file: Any, **more: Any) -> None:
    """Remember a server under NAME, or change what is remembered. The first one is in use at once.

    A secret is asked for where no --secret-file gives it: on a command line others could see it.
    """
    who = {"basic": user, "client_credentials": client_id}.get(auth, "")
    if auth in ("basic", "client_credentials") and not who:
        raise click.UsageError(f"{auth} needs {'--user' if auth == 'basic' else '--client-id'}")
    more |= {option: str(more[option].resolve()) if more[option] else "" for option in ("key_file", "ca_file")}
    secret = ""
    if auth != "none" and not more["key_file"]:
        secret = secret_file.read().strip() if secret_file else click.prompt("Secret", hide_input=True, err=True)
    made = Profile(profiles.checked_base(base_url), auth, who, secret, **more)
    profiles.save(profiles.load().with_profile(name, made))


@profile.command("list")
def list_profiles() -> None:
    """Print the profiles; a star marks the one in use. No secret is shown."""
    known = profiles.load()
    for name, each in known.by_name.items():
        who = f" as {each.user}" if each.user else ""
        click.echo(f"{'*' if name == known.current else ' '} {name}  {each.base_url}  {each.auth}{who}")


@profile.command("use")
@click.argument("name")
def use_profile(name: str) -> None:
    """Call NAME from now on where no --profile is given."""
    profiles.save(profiles.load().using(name))


@profile.command("remove")
@click.argument("name")
def remove_profile(name: str) -> None:
    """Forget NAME and its secret."""
    known = profiles.load()
    gone = known.named(name)
    profiles.save(known.without(name))
    profiles.remember_token(gone, "", 0, 0)


def _show(
    calls: Calls,
    method: str,
    path: str,
    pairs: Pairs = (),
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> None:
    from fhirserver.remote.calls import show

    show(calls.ask(method, path, pairs, body, headers or {}))


def _show_pages(calls: Calls, answer: Any, every: bool) -> None:
    from fhirserver.remote.calls import show, show_entries

    if not every:
        show(answer)
        return
    for page in calls.pages(answer):
        show_entries(page)


def _json(data: str | None, file: Path | None) -> tuple[bytes, Any]:
    """The bytes as they were given, and what they say. Raises UsageError."""
    if data is not None and file:
        raise click.UsageError("give --data or --file, not both")
    try:
        if file or (data or "").startswith("@"):
            body = (file or Path(str(data)[1:])).read_bytes()
        elif data is not None and data != "-":
            body = data.encode()
        elif data is None and sys.stdin.isatty():
            raise click.UsageError("there is no data: give --data, --file, or send it on standard input")
        else:
            body = sys.stdin.buffer.read()
    except OSError as error:
        raise click.UsageError(f"{error.filename}: {error.strerror}") from None
    try:
        return body, json.loads(body)
    except ValueError as error:
        raise click.UsageError(f"the data is not JSON: {error}") from None


def _resource(data: str | None, file: Path | None) -> tuple[bytes, dict[str, Any]]:
    body, found = _json(data, file)
    if not isinstance(found, dict) or not isinstance(found.get("resourceType"), str):
        raise click.UsageError("the data is not a resource: it has no resourceType")
    return body, found


def _type_id(words: tuple[str, ...], resource: dict[str, Any]) -> tuple[str, str]:
    """Type and id as named, or as the resource has them."""
    named = "/".join(words).split("/") if words else []
    type_ = named[0] if named else resource["resourceType"]
    id = named[1] if len(named) > 1 else str(resource.get("id") or "")
    if len(named) > 2 or type_ != resource["resourceType"]:
        raise click.UsageError(f"the data is a {resource['resourceType']}, not a {'/'.join(named)}")
    return _segment(type_), _segment(id)


def _with_id(body: bytes, resource: dict[str, Any], id: str) -> bytes:
    """The data as they are, with the id that they do not say: a PUT needs it."""
    return body if "id" in resource else b'{"id": %s, ' % json.dumps(id).encode() + body.lstrip()[1:]


def _path(words: tuple[str, ...], most: int, fewest: int = 2) -> str:
    """TYPE and ID, as two words or as TYPE/ID."""
    parts = "/".join(words).split("/") if words else []
    if not fewest <= len(parts) <= most or not all(parts):
        raise click.UsageError("say which: TYPE ID" if fewest else "at most TYPE ID")
    return "/".join(map(_segment, parts))


def _segment(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="*$")


def _pairs(words: Any) -> list[tuple[str, str]]:
    from urllib.parse import parse_qsl

    found: list[tuple[str, str]] = []
    for word in words:
        if word.startswith("?"):
            found += parse_qsl(word[1:], keep_blank_values=True)
        elif "=" in word:
            name, _, value = word.partition("=")
            found.append((name, value))
        else:
            raise click.UsageError(f"{word} is not a criterion like NAME=VALUE")
    return found


def _version(text: str) -> str:
    """An If-Match header for a version as people know it: 3."""
    return text if not text or text.startswith('W/"') else f'W/"{text}"'
