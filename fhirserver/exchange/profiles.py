"""IHE profiles to scopes: what a client needs for the profiles it is to play, from the CapabilityStatements of kind
`requirements` under capability/ihe. FHIR R4: capabilitystatement; SMART App Launch 2.2 (scopes).

Each statement is one actor of one profile, and only those whose transactions this server answers are there. They are
resources of the registry too, so that whoever reviews a client can read what a profile asks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fhirserver.auth import scopes
from fhirserver.auth.access import Access
from fhirserver.auth.scopes import ACTIONS, LETTERS, Params, Scope, Scopes
from fhirserver.fhir import Resource
from fhirserver.fhir.parameters import parameters_of
from fhirserver.fhir.problem import problem
from fhirserver.interactions.model import OperationRow, Request, Response, Server
from fhirserver.interactions.operations import parameters, text_parameter
from fhirserver.interactions.publishing import publish
from fhirserver.rules.model import CANONICAL

PREFIX = "ihe-"
"""How the id of a profile's CapabilityStatement begins; the rest is the profile's code."""

# Interactions of a CapabilityStatement -> the letter of the SMART scope.
INTERACTION_LETTERS: Mapping[str, str] = {
    "create": "c",
    "read": "r",
    "vread": "r",
    "history-instance": "r",
    "update": "u",
    "patch": "u",
    "delete": "d",
    "search-type": "s",
    "history-type": "s",
}
ACTION_LETTERS: Mapping[str, str] = {action.lower(): letter for letter, action in ACTIONS.items()}
MOST = 100


@dataclass(slots=True)
class Needed:
    """One scope to be: level, type, narrowing; its letters; and for each letter where it comes from (profile, why)."""

    level: str
    type: str
    params: Params = ()
    letters: set[str] = field(default_factory=set)
    sources: list[tuple[str, str, str]] = field(default_factory=list)

    def scope(self) -> Scope:
        """The scope."""
        return Scope(self.level, self.type, "".join(x for x in LETTERS if x in self.letters), self.params)


Table = dict[tuple[str, str, Params], Needed]


def profile_scopes(server: Server, request: Request, access: Access) -> Response:
    """$profile-scopes: the scopes that chosen profiles, custom resources and a given scope text need together.

    Raises Problem: value for a profile that is not offered, a type or an action that there is not.
    """
    values = parameters(request, "profile", "resource", "scope")
    chosen, custom = _several(values.get("profile")), _resources(values.get("resource"))
    text = text_parameter(values, "scope", limit=scopes.MOST_CHARACTERS)
    if not (chosen or custom or text):
        parts = [_offered(server, code, statement) for code, statement in offered(server).items()]
        return Response(200, resource=parameters_of(parts))
    table: Table = {}
    for code in chosen:
        _add_profile(server, table, str(code))
    held = scopes.parse(text, server.definitions.resource_types)
    for scope in held.resource:
        _add(table, scope.level, scope.type, scope.letters, params=scope.params)
    for type, letters in custom:
        if type != "*" and type not in server.definitions.resource_types:
            raise problem("value", f"{str(type)[:64]} is not a resource type of this server.", "Parameters.parameter")
        _add(table, "system", type, letters)
    needed = sorted(table.values(), key=lambda one: (one.type, one.level, one.params))
    computed = Scopes(tuple(one.scope() for one in needed), held.other)
    parts = [{"name": "scope", "valueString": str(computed)}, *map(_permission, needed)]
    return Response(200, resource=parameters_of(parts))


def offered(server: Server) -> Mapping[str, Resource]:
    """The profiles that a client may choose: code -> CapabilityStatement."""
    return {
        id.removeprefix(PREFIX): statement
        for id, statement in sorted(server.capability.items())
        if id.startswith(PREFIX)
    }


def lay_out(server: Server) -> int:
    """Makes the registry's CapabilityStatements those that are shipped; answers how many it wrote."""
    return publish(server, offered(server).values(), f"{CANONICAL}/CapabilityStatement/{PREFIX}")


def _add_profile(server: Server, table: Table, code: str) -> None:
    statement = offered(server).get(code)
    if statement is None:
        known = ", ".join(offered(server))
        raise problem("value", f"There is no profile {code[:64]!r} here; offered: {known}.", "Parameters.parameter")
    for resource in statement["rest"][0]["resource"]:
        for interaction in resource["interaction"]:
            letter = INTERACTION_LETTERS[interaction["code"]]
            _add(table, "system", resource["type"], letter, code, interaction.get("documentation", ""))


def _add(
    table: Table, level: str, type: str, letters: str, profile: str = "", reason: str = "", params: Params = ()
) -> None:
    needed = table.setdefault((level, type, params), Needed(level, type, params))
    needed.letters.update(letters)
    needed.sources += [(profile, letter, reason) for letter in letters]


def _several(value: Any) -> list[Any]:
    found = value if isinstance(value, list) else [value] if value else []
    if len(found) > MOST:
        raise problem("too-costly", f"Choose at most {MOST}.", "Parameters.parameter")
    return found


def _resources(value: Any) -> list[tuple[str, str]]:
    """The custom (type, letters) of the `resource` parameters, whose parts are lists of `type` and `action`."""
    parts = _several(value)
    # Of several, the parts of the first stand loose before the lists of the others.
    loose = [part for part in parts if not isinstance(part, list)]
    found = []
    for group in [*([loose] if loose else []), *(part for part in parts if isinstance(part, list))]:
        named = [(part.get("name"), _code(part)) for part in group if isinstance(part, dict)]
        types = [code for name, code in named if name == "type"]
        actions = [code.lower() for name, code in named if name == "action"]
        if len(types) != 1 or not actions or not set(actions) <= set(ACTION_LETTERS):
            raise problem(
                "value",
                f"A resource has one type and actions out of {', '.join(ACTION_LETTERS)}.",
                "Parameters.parameter.where(name='resource')",
            )
        found.append((types[0], "".join(ACTION_LETTERS[action] for action in dict.fromkeys(actions))))
    return found


def _code(part: Mapping[str, Any]) -> str:
    return str(next((value for name, value in part.items() if name.startswith("value")), ""))


def _permission(needed: Needed) -> Resource:
    scope = needed.scope()
    parts: list[Resource] = [
        {"name": "scope", "valueString": str(scope)},
        {"name": "type", "valueCode": needed.type},
        *({"name": "action", "valueCode": ACTIONS[letter].lower()} for letter in scope.letters),
        {"name": "words", "valueString": scopes.sentence(Scopes((scope,)))},
    ]
    for profile, letter, reason in dict.fromkeys(needed.sources):
        source = [{"name": "action", "valueCode": ACTIONS[letter].lower()}]
        source += [{"name": "profile", "valueCode": profile}] if profile else []
        source += [{"name": "reason", "valueString": reason}] if reason else []
        parts.append({"name": "from", "part": source})
    return {"name": "permission", "part": parts}


def _offered(server: Server, code: str, statement: Resource) -> Resource:
    table: Table = {}
    _add_profile(server, table, code)
    return {
        "name": "offered",
        "part": [
            {"name": "profile", "valueCode": code},
            {"name": "title", "valueString": statement["title"]},
            {"name": "description", "valueString": statement["description"]},
            {"name": "scope", "valueString": _text(table.values())},
            {"name": "definition", "valueCanonical": statement["url"]},
        ],
    }


def _text(needed: Iterable[Needed]) -> str:
    return " ".join(str(one.scope()) for one in needed)


OPERATIONS = (
    OperationRow(
        "profile-scopes",
        ("ClientApplication",),
        ("type",),
        "",
        profile_scopes,
        affects_state=False,
        bases=("registry",),
        definition=f"{CANONICAL}/OperationDefinition/ClientApplication-profile-scopes",
    ),
)
