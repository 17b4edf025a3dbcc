"""What a rule is: how writes of one resource type are prepared, and the steps of its state machine as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fhirserver.auth.principal import Principal
from fhirserver.fhir import Resource
from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.problem import Issue, Problem, problem

CANONICAL = "https://fhirserver.example/fhir"
"""The root of the canonical URLs of what we define ourselves (profiles/)."""

REGISTRY = "registry"
MOST_NOTE = 2000
"""Characters of a reason or note."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a rule knows of the write beside the resource: who, where, when; and where new ids and secrets come from.

    `seal` gives the keyed hash of a secret, `matches` says whether a secret has one, `encrypt` gives the envelope of a
    text; `allow_http` permits webhooks without TLS.
    """

    principal: Principal
    organization: str
    now: datetime
    new_id: Callable[[], str]
    new_secret: Callable[[], str]
    seal: Callable[[str], str]
    matches: Callable[[str, str], bool]
    encrypt: Callable[[str], str]
    definitions: Definitions
    allow_http: bool = False
    registry: str = ""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A resource ready to be validated and stored.

    `private` is its private part, None to keep the one it has; `shown` is what the writer alone is answered, this once;
    an `id` in the resource of a create is the id to store it under.
    """

    resource: Resource
    private: dict[str, Any] | None = None
    shown: Resource | None = None
    warnings: tuple[Issue, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a state machine. `side` is who may take it: application, provider or system; `before` the states it
    leaves.
    """

    name: str
    before: tuple[str, ...]
    after: str
    side: str
    needs_note: bool = False


def _as_it_is(context: Context, resource: Resource) -> Prepared:
    return Prepared(resource)


def _as_sent(context: Context, previous: Resource, private: Mapping[str, Any], resource: Resource) -> Prepared:
    return Prepared(resource, dict(private))


def _let_go(context: Context, resource: Resource) -> None:
    return None


def _anew(context: Context, before: Resource, resource: Resource) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Rule:
    """What a resource type does beside being stored. `refused` maps an interaction code to the sentence of its 405,
    `refused_on` does so for one kind of base (`registry`, `organization`) alone;
    `again` looks at a create under the id of a resource that was deleted, as that was before.
    """

    type: str
    refused: Mapping[str, str] = field(default_factory=dict)
    refused_on: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    create: Callable[[Context, Resource], Prepared] = _as_it_is
    update: Callable[[Context, Resource, Mapping[str, Any], Resource], Prepared] = _as_sent
    delete: Callable[[Context, Resource], None] = _let_go
    again: Callable[[Context, Resource, Resource], None] = _anew
    present: Callable[[Resource, Principal], Resource] | None = None
    steps: Mapping[str, Step] = field(default_factory=dict)

    def refusals(self, organization: str) -> Mapping[str, str]:
        """The interactions that nobody may have on the base of this organization key, each with the sentence of its
        405.
        """
        there = self.refused_on.get(REGISTRY if organization == REGISTRY else "organization")
        return {**self.refused, **there} if there else self.refused


def only_on_registry(context: Context, type_: str) -> None:
    """Raises Problem(not-supported) on an organization's base, for the types that live on the registry alone."""
    if context.organization != REGISTRY:
        raise problem("not-supported", f"{type_} is kept on the registry: write it at its base /1/health/fhir/4.")


def allowed_step(steps: Mapping[str, Step], name: str, status: str, note: str) -> Step:
    """The step, if it leads out of this status and has the note it needs; the note is bounded.

    Raises Problem: conflict (409) naming the steps possible now, required where the note is missing.
    """
    step = steps[name]
    if status not in step.before:
        possible = ", ".join(f"${other.name}" for other in steps.values() if status in other.before) or "none"
        raise problem("conflict", f"${name} is not possible in status {status or 'none'}; possible now: {possible}.")
    if step.needs_note and not note.strip():
        raise problem("required", f"${name} needs a reason in its parameter, so that the other side understands.")
    if len(note) > MOST_NOTE:
        raise problem("too-long", f"The reason has {len(note)} characters; {MOST_NOTE} are allowed.", status=400)
    return step


def wrong_side(step: Step, who: str) -> Problem:
    """The Problem for a caller of the other side: forbidden (403), naming who may take the step."""
    return problem("forbidden", f"Only {who} may take the step ${step.name}.")


def target(reference: Any, type_: str) -> str:
    """The id that a Reference to this type names, relative or absolute; empty where there is none."""
    text = str(reference.get("reference", "")) if isinstance(reference, Mapping) else ""
    parts = text.split("/_history/")[0].split("/")
    return parts[-1] if len(parts) > 1 and parts[-2] == type_ else ""


def listed(value: Any) -> list[Any]:
    """The list that an element should be, empty where it is something else: rules run before validation says so."""
    return value if isinstance(value, list) else []


def reference(type_: str, id_: str, display: str = "") -> dict[str, Any]:
    """A relative Reference."""
    return {"reference": f"{type_}/{id_}", **({"display": display} if display else {})}
