"""From an element to its children, by the definitions: how `value` finds `valueQuantity` and what type it then has.

FHIR R4: fhirpath#polymorphism, json#primitive.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fhirserver.fhir.definitions import Definitions, Property
from fhirserver.fhir.fhirpath.values import Node, Quantity, Temporal, system

_SYSTEM_TYPES = {str: "String", bool: "Boolean", int: "Integer"}
# System types and the FHIR primitives that convert to them.
_CONVERTS = {
    "Boolean": "boolean",
    "String": "string",
    "Integer": "integer",
    "Decimal": "decimal",
    "Date": "date",
    "DateTime": "dateTime",
    "Time": "time",
}
_STRINGS = frozenset({"code", "id", "markdown", "uri", "url", "canonical", "oid", "uuid", "base64Binary", "xhtml"})


class Model:
    """Navigation by the types of one Definitions; remembers what each step of each type leads to."""

    def __init__(self, definitions: Definitions) -> None:
        self.definitions = definitions
        self._steps: dict[tuple[str, str], tuple[Property, ...]] = {}

    def root(self, value: Any) -> Node:
        """The node of a resource, or of any JSON value."""
        if type(value) is Node:
            return value
        if type(value) is dict:
            name = value.get("resourceType")
            return Node(value, name if type(name) is str and name in self.definitions.types else "")
        return Node(value, "")

    def step(self, node: Any, name: str) -> list[Node]:
        """The children of an element under one name; [] for anything without children."""
        if type(node) is not Node:
            return []
        value = node.value
        if type(value) is not dict:
            return self._of_primitive(node, name)
        properties = self._steps.get((node.type, name))
        if properties is None:
            properties = self._find(node.type, name)
        if properties:
            if len(properties) > 1:  # a choice: the one type that is there
                properties = tuple(p for p in properties if p.name in value or "_" + p.name in value)[:1]
            return self.of_property(value, properties[0]) if properties else []
        return [] if node.type else self._untyped(value, name)

    def children(self, node: Any) -> Iterator[Node]:
        """All children of an element, in the order of the JSON."""
        if type(node) is not Node:
            return
        if type(node.value) is not dict:
            yield from self._of_primitive(node, "id")
            yield from self._of_primitive(node, "extension")
            return
        known = self.definitions.types.get(node.type)
        for name in node.value:
            if name == "resourceType" or (name.startswith("_") and name[1:] in node.value):
                continue
            prop = known.properties.get(name.removeprefix("_")) if known else None
            yield from self.of_property(node.value, prop) if prop else self._untyped(node.value, name)

    def descendants(self, node: Any) -> Iterator[Node]:
        """All elements below an element, without it."""
        pending = list(self.children(node))[::-1]
        while pending:
            found = pending.pop()
            yield found
            pending.extend(list(self.children(found))[::-1])

    def is_type(self, item: Any, name: str) -> bool:
        """Whether an item is of a type or derives from it: `Quantity`, `FHIR.Quantity`, `System.Boolean`, `Boolean`."""
        space, _, short = name.rpartition(".")
        short = short.strip("`")
        if type(item) is not Node:
            return space != "FHIR" and _system_type(item) == short
        if space == "System":
            return False
        if self.definitions.is_subtype(item.type, short):
            return True
        if space == "FHIR" or short not in _CONVERTS:
            return False
        fhir = _CONVERTS[short]
        return self.definitions.is_subtype(item.type, fhir) or (short == "String" and item.type in _STRINGS)

    def type_name(self, item: Any) -> str:
        """The name of an item's type, "" when it is not known."""
        return item.type if type(item) is Node else _system_type(item)

    def _find(self, type_name: str, name: str) -> tuple[Property, ...]:
        known = self.definitions.types.get(type_name)
        found: tuple[Property, ...] = ()
        if known is not None:
            names = known.choices.get(name) or ((name,) if name in known.properties else ())
            found = tuple(known.properties[n] for n in names)
        if len(self._steps) < 50_000:  # names come from expressions: a bound keeps hostile ones from growing it
            self._steps[type_name, name] = found
        return found

    def of_property(self, value: dict[str, Any], prop: Property) -> list[Node]:
        """The nodes of one JSON property of an object, with the `_name` siblings of primitives."""
        child = value.get(prop.name)
        sibling = value.get("_" + prop.name)
        if sibling is None:
            if type(child) is list:
                return [self._node(item, prop.type, None) for item in child]
            return [] if child is None else [self._node(child, prop.type, None)]
        if type(child) is list or type(sibling) is list:
            items = child if type(child) is list else []
            siblings = sibling if type(sibling) is list else []
            size = max(len(items), len(siblings))
            items, siblings = items + [None] * (size - len(items)), siblings + [None] * (size - len(siblings))
            return [self._node(i, prop.type, s) for i, s in zip(items, siblings, strict=True)]
        return [self._node(child, prop.type, sibling)]

    def _node(self, value: Any, type_name: str, sibling: Any) -> Node:
        if type_name == "Resource" and type(value) is dict:
            return self.root(value)
        return Node(value, type_name, sibling)

    def _of_primitive(self, node: Node, name: str) -> list[Node]:
        if type(node.sibling) is not dict or name not in node.sibling:
            return []
        if name == "extension":
            return [Node(item, "Extension") for item in node.sibling["extension"]]
        return [Node(node.sibling[name], "string")]

    def _untyped(self, value: dict[str, Any], name: str) -> list[Node]:
        child = value.get(name)
        if child is None:
            return []
        return [self.root(item) for item in child] if type(child) is list else [self.root(child)]


def _system_type(item: Any) -> str:
    value = system(item)
    if type(value) is Temporal:
        return value.kind
    if type(value) is Quantity:
        return "Quantity"
    return _SYSTEM_TYPES.get(type(value), "Decimal")
