"""What a client may do: chosen by IHE profiles, by resource, or as text; shown in words with where each comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fhirserver.auth.scopes import LETTERS
from fhirserver.fhir import Resource
from fhirserver.web.console.application.answers import ACTIONS, launch_scopes, offered, permissions
from fhirserver.web.console.here import Here

LEVELS = ("system", "user", "patient")
MOST_ROWS = 60
LETTER = {
    action: letter for letter, action in zip(LETTERS, ("create", "read", "update", "delete", "search"), strict=True)
}
LAUNCH = ("openid", "fhirUser", "profile", "email", "offline_access", "launch", "launch/patient")


@dataclass(slots=True)
class Row:
    """One resource chosen: who asks, the type, what it is to be done to it."""

    level: str = "system"
    type: str = ""
    actions: list[str] = field(default_factory=list)

    @property
    def scope(self) -> str:
        """The SMART scope, "" for a row that says nothing."""
        letters = "".join(letter for letter in LETTERS if letter in {LETTER[action] for action in self.actions})
        return f"{self.level}/{self.type}.{letters}" if self.type and letters else ""


@dataclass(slots=True)
class Picked:
    """What was chosen: profiles, rows, scopes about sign-in and launch, and a text for whatever else."""

    profiles: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    launch: list[str] = field(default_factory=list)
    text: str = ""

    @property
    def scope(self) -> str:
        """What is chosen beside the profiles, as a scope text."""
        return " ".join([*self.launch, *(row.scope for row in self.rows if row.scope), self.text]).strip()

    def permissions(self, here: Here) -> tuple[str, list[dict[str, Any]]]:
        """The scopes together, and each in words. Raises Problem for what is none."""
        return permissions(here, self.scope, self.profiles)


def picked(here: Here) -> Picked:
    """What the form has chosen."""
    rows = []
    for index in range(MOST_ROWS):
        if f"type-{index}" not in here.form:
            break
        level = here.form.get(f"level-{index}", "system")
        actions = [action for action in here.form_list(f"action-{index}") if action in ACTIONS]
        rows.append(Row(level if level in LEVELS else "system", here.form[f"type-{index}"][:64], actions))
    launch = [code for code in here.form_list("launch") if code in LAUNCH]
    return Picked(here.form_list("profile")[:100], rows, launch, here.form.get("scopes", "").strip())


def picked_of(here: Here, client: Resource) -> Picked:
    """What a client has, as the form that chooses shows it: what its profiles do not account for stands in rows, what a
    row cannot say in the text.
    """
    scope, profiles = str(client.get("scope", "")), list(client.get("iheProfile", ()))
    chosen = Picked(profiles, [], [code for code in launch_scopes(scope) if code in LAUNCH])
    rest = [code for code in launch_scopes(scope) if code not in LAUNCH]
    accounted = {
        (each["level"], each["type"]): each for each in permissions(here, "", profiles)[1] if not each["narrowed"]
    }
    for each in permissions(here, scope)[1]:
        known = accounted.get((each["level"], each["type"]), {}).get("actions", ())
        left = [action for action in each["actions"] if each["narrowed"] or action not in known]
        if each["narrowed"]:
            rest.append(each["scope"])
        elif left:
            chosen.rows.append(Row(each["level"], each["type"], left))
    chosen.text = " ".join(rest)
    return chosen


def choices(here: Here, chosen: Picked) -> dict[str, Any]:
    """What the form that chooses is drawn with; it has a row that is still empty."""
    rows = chosen.rows if here.form.get("do") == "add" and chosen.rows else [row for row in chosen.rows if row.type]
    return {
        "picked": chosen,
        "rows": [*rows, Row()][:MOST_ROWS],
        "offered": offered(here),
        "types": ["*", *served(here)],
        "actions": ACTIONS,
        "levels": LEVELS,
        "launchers": LAUNCH,
    }


def served(here: Here) -> list[str]:
    """The types of an organization's base, by name."""
    statement = here.server.capability["organization"]
    return sorted(each["type"] for each in statement["rest"][0]["resource"])
