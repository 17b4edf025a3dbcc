"""What operations answer, as templates show it: the parts of Parameters by name; scopes as permissions in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fhirserver.auth.sandbox import is_sandbox
from fhirserver.auth.scopes import OTHER
from fhirserver.fhir import Resource
from fhirserver.web.console.here import Here

ACTIONS = ("create", "read", "update", "delete", "search")


def values(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The values of parameters by name, the last of those of one name; of one with parts, theirs in the same way."""
    return {part["name"]: _value(part) for part in parts}


def parameters(answer: Resource, name: str = "") -> list[Mapping[str, Any]]:
    """The parameters of an answer, those of a name where one is given."""
    return [part for part in answer.get("parameter", ()) if name in ("", part["name"])]


def _value(part: Mapping[str, Any]) -> Any:
    if "part" in part:
        return values(part["part"])
    return next((value for name, value in part.items() if name != "name"), None)


def permissions(here: Here, scope: str, profiles: Sequence[str] = ()) -> tuple[str, list[dict[str, Any]]]:
    """The scopes that a text and IHE profiles need together: as a text, and each with type, level, actions, words and
    where it comes from. Raises Problem for what no scope or profile is.
    """
    if not (scope.strip() or profiles):
        return "", []
    told = here.operate("ClientApplication", None, "profile-scopes", scope=scope, profile=list(profiles))
    found = [_permission(each["part"]) for each in parameters(told, "permission")]
    return str(values(parameters(told, "scope")).get("scope", "")), found


def _permission(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    one = values(parts)
    sources = [values(part["part"]) for part in parts if part["name"] == "from"]
    return {
        "scope": one["scope"],
        "level": str(one["scope"]).partition("/")[0],
        "type": one["type"],
        "narrowed": str(one["scope"]).partition("?")[2],
        "actions": [part["valueCode"] for part in parts if part["name"] == "action"],
        "words": one["words"],
        "sources": _grouped(sources),
        "own": [each["action"] for each in sources if not each.get("profile")],
    }


def _grouped(sources: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The profiles that a permission comes from, each with its reasons."""
    found: dict[str, dict[str, Any]] = {}
    for each in sources:
        if each.get("profile"):
            one = found.setdefault(each["profile"], {"profile": each["profile"], "reasons": []})
            if each.get("reason") and each["reason"] not in one["reasons"]:
                one["reasons"].append(each["reason"])
    return list(found.values())


def explained(here: Here, scope: str, profiles: Sequence[str]) -> list[dict[str, Any]]:
    """The permissions of a scope text, with the profiles that account for them; no more than the scope permits."""
    sources = {each["scope"].partition("?")[0].rpartition(".")[0]: each for each in permissions(here, "", profiles)[1]}
    found = permissions(here, scope)[1]
    for each in found:
        key = each["scope"].partition("?")[0].rpartition(".")[0]
        each["sources"] = sources.get(key, {}).get("sources", []) if not each["narrowed"] else []
    return found


def launch_scopes(scope: str) -> list[str]:
    """The scopes of a text that are about the person and the launch, not about resources."""
    return [word for word in scope.split() if word in OTHER]


def offered(here: Here) -> list[dict[str, Any]]:
    """The IHE profiles that a client may choose: profile, title, description, scope."""
    told = here.operate("ClientApplication", None, "profile-scopes", method="GET")
    return [values(part["part"]) for part in parameters(told, "offered")]


def titles(here: Here) -> dict[str, str]:
    """The titles of the IHE profiles by their codes."""
    return {each["profile"]: each["title"] for each in offered(here)}


def id_of(reference: Any) -> str:
    """The id at the end of a Reference."""
    text = str(reference.get("reference", "")) if isinstance(reference, Mapping) else ""
    return text.rpartition("/")[2]


def names_of(here: Here, ids: Iterable[str]) -> dict[str, str]:
    """The names of organizations by their ids, as far as the user may know them."""
    wanted = sorted({id for id in ids if id and id != "registry"})[:100]
    if not wanted:
        return {}
    found = here.found("Organization", ("_id", ",".join(wanted)), ("_elements", "name"), ("_count", "100"))
    sandboxes = {id: here.t("application.client-sandbox.title") for id in wanted if is_sandbox(id)}
    return sandboxes | {each["id"]: str(each.get("name", each["id"])) for each in found}
