"""What passes between the checks of validation: a fault, the place a value stands in, the shape of a check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fhirserver.fhir.definitions import Property
from fhirserver.fhir.fhirpath import Node
from fhirserver.fhir.fhirpath.model import Model
from fhirserver.fhir.fhirpath.scope import Scope

KEYWORDS = frozenset({"and", "or", "xor", "implies", "div", "mod", "true", "false"})  # of FHIRPath
_BEYOND_STRUCTURE = frozenset({"invariant", "extension"})
MAX_FAULTS = 100  # of each severity


class Fault(NamedTuple):
    """A fault found in a value: FHIR issue type, the FHIRPath steps from the value to it, and what to do about it."""

    code: str
    path: str
    text: str
    severity: str = "error"


class Place:
    """Where a value stands: the resource it belongs to, the one that contains that (or itself), and its contained."""

    __slots__ = ("contained", "mentioned", "profiles", "resource", "root", "scope")

    def __init__(self, resource: dict[str, Any], outer: Place | None = None, profiles: bool = True) -> None:
        self.resource = resource
        self.profiles = profiles  # whether profiles and extension definitions are asked too
        self.scope: Scope | None = None  # of the FHIRPath invariants, made when the first needs it
        if outer is None:
            self.root = resource
            self.contained = _contained_types(resource["contained"]) if "contained" in resource else _NONE
            self.mentioned = mentions(resource) if self.contained else _NOTHING
        else:
            self.root, self.contained, self.mentioned = outer.root, outer.contained, outer.mentioned


def scope_of(place: Place, model: Model, context: Node) -> Scope:
    """The scope to evaluate FHIRPath on an element in: one for all elements of a resource."""
    scope = place.scope
    if scope is None:
        variables = {"resource": model.root(place.resource), "rootResource": model.root(place.root)}
        place.scope = scope = Scope(model, variables)
    scope.this = None
    scope.variables["context"] = context
    return scope


Faults = list[Fault] | None
Check = Callable[[Any, Place], Faults]


def step_to(prop: Property) -> str:
    """The FHIRPath step to a property: `.value.ofType(Quantity)` for valueQuantity, keywords quoted."""
    if prop.choice:
        return f".{prop.element}.ofType({prop.type})"
    return "." + quoted(prop.name)


def quoted(name: str) -> str:
    """An element's name as FHIRPath writes it: keywords stand in backticks."""
    return f"`{name}`" if name in KEYWORDS else name


def sound(faults: Faults) -> bool:
    """Whether the structure of a value is right, so that invariants can be asked of it."""
    return not faults or all(fault.code in _BEYOND_STRUCTURE or fault.severity != "error" for fault in faults)


def bounded(faults: list[Fault]) -> tuple[list[Fault], bool]:
    """The faults with MAX_FAULTS warnings at most, and whether there are so many errors that no more are needed."""
    if len(faults) < 2 * MAX_FAULTS:
        return faults, False
    errors = [fault for fault in faults if fault.severity == "error"]
    others = [fault for fault in faults if fault.severity != "error"]
    return errors + others[:MAX_FAULTS], len(errors) >= MAX_FAULTS


def mentions(resource: dict[str, Any]) -> frozenset[str]:
    """The texts in a resource that begin with #, as references within it do."""
    found = set()
    pending: list[Any] = [resource]
    while pending:
        value = pending.pop()
        if type(value) is dict:
            pending += value.values()
        elif type(value) is list:
            pending += value
        elif type(value) is str and value.startswith("#"):
            found.add(value)
    return frozenset(found)


_NONE: Mapping[str, str] = {}
_NOTHING: frozenset[str] = frozenset()


def _contained_types(contained: Any) -> Mapping[str, str]:
    if type(contained) is not list:
        return _NONE
    return {str(c.get("id")): str(c.get("resourceType")) for c in contained if type(c) is dict}
