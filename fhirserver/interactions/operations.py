"""Operations: `$name` at the system, type or instance level. FHIR R4: operations.

The table comes from the composition root; each operation is a function of the room that owns it.
"""

from __future__ import annotations

from typing import Any

from fhirserver.auth.access import Access
from fhirserver.fhir.problem import problem
from fhirserver.interactions.model import OperationRow, Request, Response, Server
from fhirserver.interactions.write import may_change


def operation(server: Server, request: Request, access: Access) -> Response:
    """Runs the operation named. Raises Problem: not-found for one that is not there, forbidden, 405 for GET on one
    that writes.
    """
    row = _row(server, request)
    level = "instance" if request.id else "type" if request.type else "system"
    if level not in row.levels:
        raise problem(
            "not-found", f"${row.name} is not called on the {level} level; possible: {', '.join(row.levels)}."
        )
    if row.affects_state and request.facts.get("method") == "GET":
        raise problem("not-supported", f"${row.name} changes state: use POST.", status=405, headers={"Allow": "POST"})
    if row.letter and request.type:
        access.require(request.type, row.letter)
        if request.id and row.letter in "ud":
            _require_change(server, request, access, row.letter)
    return row.function(server, request, access)


def _require_change(server: Server, request: Request, access: Access, letter: str) -> None:
    """Raises Problem(forbidden) for what the caller may read but not change: each may be narrowed by itself. What may
    not be read is for the operation to say.
    """
    found = server.store.live(access, request.type or "", request.id or "", session=request.session)
    if found and not may_change(server, access, found, letter):
        raise problem("forbidden", f"Your scopes do not permit to write {request.type}/{request.id}.")


def parameters(request: Request, *names: str) -> dict[str, Any]:
    """The values of an operation's parameters by name, from a Parameters resource or the query.

    An unknown parameter, or a body that is not Parameters, is Problem(invalid). Repeated ones give a list.
    """
    given: list[tuple[str, Any]] = list(request.query)
    if request.body is not None:
        if not isinstance(request.body, dict) or request.body.get("resourceType") != "Parameters":
            raise problem("invalid", "The body of an operation is a Parameters resource.", "resourceType")
        listed = request.body.get("parameter", [])
        if not isinstance(listed, list):
            raise problem("structure", "Parameters.parameter is an array.", "Parameters.parameter")
        given += [(str(part.get("name")), _value(part)) for part in listed if isinstance(part, dict)]
    values: dict[str, Any] = {}
    repeated: set[str] = set()
    for name, value in given:
        if name in ("_format", "_pretty"):
            continue
        if name not in names:
            raise problem(
                "invalid",
                f"${request.operation} knows no parameter {name!r}; known: {', '.join(names)}.",
                "Parameters.parameter",
            )
        if name not in values:
            values[name] = value
        elif name in repeated:  # as often as a body has room for: not copied each time
            values[name].append(value)
        else:
            values[name] = [*_list(values[name]), value]
            repeated.add(name)
    return values


def text_parameter(values: dict[str, Any], name: str, *, limit: int = 4000) -> str:
    """The text of a parameter, "" where it is absent. Raises Problem(value) for another type or too long a text."""
    value = values.get(name, "")
    if not isinstance(value, str) or len(value) > limit:
        raise problem(
            "value",
            f"{name} must be one text of at most {limit} characters.",
            f"Parameters.parameter.where(name='{name}')",
        )
    return value.strip()


def reference_parameter(values: dict[str, Any], name: str, type: str) -> str:
    """The id in a Reference parameter to a resource of that type (also as plain text). Raises Problem(required or
    value).
    """
    value = values.get(name)
    text = value.get("reference") if isinstance(value, dict) else value
    where = f"Parameters.parameter.where(name='{name}')"
    if not text:
        raise problem("required", f"{name} is required: a Reference to the {type}.", where)
    kind, _, id = str(text).rpartition("/")
    if not kind.endswith(type) or not id:
        raise problem("value", f"{name} must refer to a {type}, as in {type}/123.", where)
    return id


def _row(server: Server, request: Request) -> OperationRow:
    kind = "registry" if request.organization == "registry" else "organization"
    name = (request.operation or "").removeprefix("$")
    row = server.operations.get(f"{request.type}/{name}") or server.operations.get(name)
    fits = row and kind in row.bases and (not request.type or request.type in row.types or "Resource" in row.types)
    if not row or not fits:
        where = f" on {request.type}" if request.type else ""
        raise problem("not-found", f"There is no operation ${name[:100]}{where} on this base.")
    return row


def _value(part: dict[str, Any]) -> Any:
    if "resource" in part:
        return part["resource"]
    return next((value for key, value in part.items() if key.startswith("value")), part.get("part"))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
