"""From a StructureDefinition to the types it defines: the type itself and one for each of its backbone elements.

FHIR R4: structuredefinition, elementdefinition, profiling#snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fhirserver.fhir.definitions_model import Binding, Constraint, Property, TypeDefinition
from fhirserver.fhir.problem import problem

STRUCTURE_DEFINITION = "http://hl7.org/fhir/StructureDefinition/"
_FHIR_TYPE = STRUCTURE_DEFINITION + "structuredefinition-fhir-type"
_SYSTEM_TYPE = "http://hl7.org/fhirpath/System."
_BACKBONES = frozenset({"BackboneElement", "Element"})
_KINDS = {"resource": "resource", "complex-type": "complex", "primitive-type": "primitive", "logical": "logical"}
_MAX_ELEMENTS = 5_000

Element = Mapping[str, Any]


def types_of(structure: Mapping[str, Any], bases: Mapping[str, TypeDefinition]) -> list[TypeDefinition]:
    """The types a StructureDefinition (derivation specialization, or none) defines; itself first.

    From its snapshot, or from its differential put after what the base type in `bases` has. Raises Problem(invalid)
    when it has neither or names a base that is not known.
    """
    name = structure["type"]
    elements = _elements(structure)
    base = structure.get("baseDefinition", "").rsplit("/", 1)[-1] or None
    inherited: Mapping[str, Property] = {}
    if "snapshot" not in structure and base is not None:
        if base not in bases:
            raise problem("invalid", f"The base {base} of StructureDefinition {name} is not known.", "baseDefinition")
        inherited = bases[base].properties
    children = _children(elements)
    kind = _KINDS.get(structure.get("kind", ""), "logical")
    reader = _Reader(name, kind, structure.get("url", ""), children)
    root = elements[0] if elements and elements[0]["path"] == name else {"path": name}
    types = [reader.type_of(root, base, bool(structure.get("abstract")), inherited)]
    types += [reader.type_of(e, _codes(e)[0], False, {}) for e in elements if reader.is_backbone(e) and e is not root]
    return types


def target_names(profiles: list[str]) -> tuple[str, ...]:
    """The type names of targetProfile URLs, which are their last segments; () when any resource will do."""
    names = [url.rsplit("/", 1)[-1] for url in profiles]
    return () if "Resource" in names else tuple(names)


def constraints_of(element: Element, url: str) -> tuple[Constraint, ...]:
    """The constraints that the StructureDefinition with this URL states itself on an element, not what it inherits."""
    return tuple(
        Constraint(c["key"], c.get("severity", "error"), c.get("human", ""), c["expression"])
        for c in element.get("constraint", ())
        if c.get("expression") and c.get("source", url) == url
    )


def binding_of(element: Element) -> Binding | None:
    """The binding of an element, None when it has none or names no value set."""
    binding = element.get("binding")
    if not binding or "valueSet" not in binding:
        return None
    return Binding(binding["strength"], binding["valueSet"].split("|", 1)[0])


def value_of(element: Element, prefix: str) -> Any:
    """The value of a choice property of an element definition: `fixedUri` for prefix `fixed`; None when absent."""
    return next((v for key, v in element.items() if key.startswith(prefix) and key[len(prefix)].isupper()), None)


def json_name(element: str, type_name: str) -> str:
    """The JSON name of a choice: ("value", "dateTime") -> "valueDateTime"."""
    return element + type_name[0].upper() + type_name[1:]


def type_code(entry: Mapping[str, Any]) -> str:
    """The FHIR type of one ElementDefinition.type, looking through the FHIRPath system types of ids and urls."""
    code = str(entry.get("code", ""))
    if not code.startswith(_SYSTEM_TYPE):
        return code
    for extension in entry.get("extension", ()):
        if extension.get("url") == _FHIR_TYPE:
            return str(extension.get("valueUrl") or extension.get("valueUri") or extension.get("valueString"))
    return "string"


def _codes(element: Element) -> list[str]:
    return [type_code(entry) for entry in element.get("type", ())]


def _elements(structure: Mapping[str, Any]) -> list[Element]:
    view = structure.get("snapshot") or structure.get("differential")
    if not view or not view.get("element"):
        raise problem("invalid", f"StructureDefinition {structure.get('url')} has no elements.", "snapshot")
    elements: list[Element] = view["element"]
    if len(elements) > _MAX_ELEMENTS:
        raise problem("too-long", f"A StructureDefinition may have {_MAX_ELEMENTS} elements.", "snapshot.element")
    return elements


def _children(elements: list[Element]) -> dict[str, list[Element]]:
    children: dict[str, list[Element]] = {}
    for element in elements:
        parent, _, name = element["path"].rpartition(".")
        if name and ":" not in element.get("id", ""):  # an element with a slice name restates its sibling
            children.setdefault(parent, []).append(element)
    return children


class _Reader:
    """Reads the elements of one StructureDefinition."""

    def __init__(self, name: str, kind: str, url: str, children: Mapping[str, list[Element]]) -> None:
        self.name, self.kind, self.url, self.children = name, kind, url, children

    def is_backbone(self, element: Element) -> bool:
        """Whether this element's content is defined in place, so that it makes a type of its own."""
        return element["path"] in self.children and _codes(element)[:1] != [] and _codes(element)[0] in _BACKBONES

    def type_of(
        self, element: Element, base: str | None, abstract: bool, inherited: Mapping[str, Property]
    ) -> TypeDefinition:
        path = element["path"]
        own = {p.name: p for child in self.children.get(path, ()) for p in self._properties(path, child)}
        properties = {**inherited, **own}
        choices: dict[str, tuple[str, ...]] = {}
        for p in properties.values():
            if p.choice:
                choices[p.element] = (*choices.get(p.element, ()), p.name)
        required = tuple(dict.fromkeys(p.element for p in properties.values() if p.min > 0))
        kind = self.kind if path == self.name else "backbone"
        constraints = constraints_of(element, self.url)
        url = self.url if path == self.name else f"{self.url}#{path}"
        return TypeDefinition(path, kind, base, abstract, url, properties, required, choices, constraints)

    def _properties(self, parent: str, element: Element) -> Iterator[Property]:
        name = element["path"].rpartition(".")[2]
        if element.get("max") == "0" or (self.kind == "primitive" and name == "value"):
            return  # the value of a primitive is the JSON value itself
        choice = name.endswith("[x]")
        if choice:
            name = name[:-3]
        for code, entry in self._types(element):
            if self.kind == "resource" and parent == self.name and name == "id":
                code = "id"
            backbone = code == element["path"]
            yield Property(
                name=json_name(name, code) if choice else name,
                element=name,
                type=code,
                is_list=element.get("max", "1") != "1",
                min=int(element.get("min", 0)),
                max=None if element.get("max") == "*" else int(element.get("max", "1")),
                choice=choice,
                targets=target_names(entry.get("targetProfile", [])),
                profiles=tuple(entry.get("profile", ())),
                binding=binding_of(element),
                fixed=value_of(element, "fixed"),
                pattern=value_of(element, "pattern"),
                modifier=bool(element.get("isModifier")),
                summary=bool(element.get("isSummary")),
                max_length=element.get("maxLength"),
                constraints=() if backbone else constraints_of(element, self.url),
            )

    def _types(self, element: Element) -> Iterator[tuple[str, Mapping[str, Any]]]:
        reference = element.get("contentReference")
        if reference:
            yield reference.split("#", 1)[-1], {}
        for entry in element.get("type", ()):
            yield (element["path"] if self.is_backbone(element) else type_code(entry)), entry
