"""What passes between the checks of validation: a fault, the place a value stands in, the shape of a check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

MAX_FAULTS = 100


class Fault(NamedTuple):
    """A fault found in a value: FHIR issue type, the FHIRPath steps from the value to it, and what to do about it."""

    code: str
    path: str
    text: str
    severity: str = "error"


class Place:
    """Where a value stands: the resource it belongs to, the one that contains that (or itself), and its contained."""

    __slots__ = ("contained", "mentioned", "resource", "root")

    def __init__(self, resource: dict[str, Any], outer: Place | None = None) -> None:
        self.resource = resource
        if outer is None:
            self.root = resource
            self.contained = _contained_types(resource["contained"]) if "contained" in resource else _NONE
            self.mentioned = mentions(resource) if self.contained else _NOTHING
        else:
            self.root, self.contained, self.mentioned = outer.root, outer.contained, outer.mentioned


Faults = list[Fault] | None
Check = Callable[[Any, Place], Faults]


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
