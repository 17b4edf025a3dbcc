"""A profile (StructureDefinition, derivation constraint) as a tree of rules, without those its type states already.

FHIR R4: profiling, elementdefinition, elementdefinition#slicing. A profile that has only a differential is read from
that, standing on its base profile; so no snapshot needs to be made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fhirserver.fhir.definitions import Binding, Constraint, Definitions, Property, TypeDefinition
from fhirserver.fhir.definitions_structure import binding_of, target_names, type_code, value_of
from fhirserver.fhir.validation.contexts import contexts_of

Discriminators = tuple[tuple[str, str], ...]  # (type, path)

_BY_URL = frozenset({"extension", "modifierExtension"})
_IN_PLACE = frozenset({"BackboneElement", "Element"})
_MAX_CHAIN = 20
_EXTENSIONS: Discriminators = (("value", "url"),)
_CHOICE: Discriminators = (("type", "$this"),)


@dataclass(slots=True)
class TypeRule:
    """One type an element may have, the profiles its value must meet one of, and those its target may meet."""

    code: str
    profiles: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(slots=True)
class Rule:
    """What a profile asks of an element beyond its type; None and () ask nothing. content: a content reference's id.
    closed, ordered, at_end: of its slices - no others, in their order, others behind them only.
    """

    name: str
    min: int | None = None
    max: int | None = None
    types: tuple[TypeRule, ...] = ()
    fixed: Any = None
    pattern: Any = None
    binding: Binding | None = None
    constraints: tuple[Constraint, ...] = ()
    max_length: int | None = None
    low: Any = None
    high: Any = None
    discriminators: Discriminators = ()
    closed: bool = False
    ordered: bool = False
    at_end: bool = False
    children: dict[str, Rule] = field(default_factory=dict)
    slices: dict[str, Rule] = field(default_factory=dict)
    content: str = ""

    @property
    def says_something(self) -> bool:
        """Whether the rule can ever find a fault, or its slices or children can."""
        own = (self.min, self.max, self.fixed, self.pattern, self.binding, self.max_length, self.low, self.high)
        sliced = self.slices or self.closed or (self.discriminators and self.name not in _BY_URL)
        return any(v is not None for v in own) or bool(
            self.types or self.constraints or self.children or sliced or self.content
        )


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile ready to be checked: its type, its rules, and the profile it stands on if it has no snapshot itself."""

    url: str
    type: str
    root: Rule
    base: str | None
    named: Mapping[str, Rule]  # the rules content references point at, by element id
    contexts: tuple[str, ...] = ()  # of an extension: the elements it may stand on


def read_profile(structure: Mapping[str, Any], definitions: Definitions, depth: int = 0) -> Profile:
    """The rules of a profile. Raises KeyError, TypeError or ValueError for a StructureDefinition that is malformed."""
    whole = "snapshot" in structure
    elements = structure["snapshot" if whole else "differential"]["element"]
    name = structure["type"]
    own = frozenset(t.url for t in definitions.types.values())
    root = Rule(name)
    by_id: dict[str, Rule] = {}
    for element in elements:
        rule = by_id[element.get("id") or element["path"]] = _place(root, element)
        _fill(rule, element, own, structure["url"])
    base = None if whole else definitions.profiles.get(structure.get("baseDefinition", ""))
    if base is not None:
        if depth > _MAX_CHAIN:
            raise ValueError("a profile stands on itself")
        _inherit(root, read_profile(base, definitions, depth + 1).root)
    _trim(root, definitions, definitions.types[name], "root")
    named = {rule.content: by_id[rule.content] for rule in by_id.values() if rule.content in by_id}
    contexts = contexts_of(structure)
    return Profile(structure["url"], name, root, base["url"] if base is not None else None, named, contexts)


def _place(root: Rule, element: Mapping[str, Any]) -> Rule:
    """The rule an element defines, found by its id: `Observation.component:systolic.code`."""
    identity = element.get("id") or element["path"]
    if "sliceName" in element and ":" not in identity:
        identity += ":" + element["sliceName"]
    rule = root
    for segment in identity.split(".")[1:]:
        name, _, slice_name = segment.partition(":")
        name = name.removesuffix("[x]")
        rule = rule.children.setdefault(name, Rule(name))
        if slice_name:
            rule = rule.slices.setdefault(slice_name, Rule(name))
    return rule


def _inherit(rule: Rule, base: Rule) -> None:
    """A differential may add slices without saying again what tells them apart."""
    if rule.slices and not rule.discriminators:
        rule.discriminators = base.discriminators
    if base.slices:
        # Its other slices are in the base only, which is asked too.
        rule.closed = rule.ordered = rule.at_end = False
    for name, child in rule.children.items():
        if name in base.children:
            _inherit(child, base.children[name])
    for name, one in rule.slices.items():
        if name in base.slices:
            _inherit(one, base.slices[name])


def _fill(rule: Rule, element: Mapping[str, Any], own: frozenset[str], url: str) -> None:
    rule.min = element.get("min")
    most = element.get("max")
    rule.max = None if most is None or most == "*" else int(most)
    rule.types = tuple(
        TypeRule(type_code(t), tuple(t.get("profile", ())), tuple(t.get("targetProfile", ())))
        for t in element.get("type", ())
    )
    rule.fixed, rule.pattern = value_of(element, "fixed"), value_of(element, "pattern")
    rule.low, rule.high = value_of(element, "minValue"), value_of(element, "maxValue")
    rule.max_length = element.get("maxLength")
    binding = binding_of(element)
    rule.binding = binding if binding is not None and binding.strength == "required" else None
    rule.constraints = tuple(_constraints(element, own, url))
    rule.content = element.get("contentReference", "").split("#")[-1]
    slicing = element.get("slicing")
    if slicing:
        rule.discriminators = tuple((d["type"], d["path"]) for d in slicing.get("discriminator", ()))
        rule.closed = slicing.get("rules") == "closed"
        rule.at_end = slicing.get("rules") == "openAtEnd"
        rule.ordered = slicing.get("ordered") is True


def _constraints(element: Mapping[str, Any], own: frozenset[str], url: str) -> Iterable[Constraint]:
    """Those of this profile and of the profiles it derives from; those of types are asked with the type."""
    for c in element.get("constraint", ()):
        if c.get("expression") and c.get("source", url) not in own:
            yield Constraint(c["key"], c.get("severity", "error"), c.get("human", ""), c["expression"])


def _trim(rule: Rule, definitions: Definitions, owner: TypeDefinition, part: str = "") -> None:
    """Take out what the type asks already, and the rules that then say nothing. `part`: "root", "slice", or neither."""
    known = [] if part == "root" else _properties(owner, rule.name)
    below = owner if part == "root" else _type_below(rule, definitions, known)
    if part == "root":
        rule.min, rule.max, rule.types = None, None, ()
    elif part != "slice" and known:
        _loosen(rule, known)
    rule.min = rule.min or None
    if rule.slices and not rule.discriminators:
        rule.discriminators = _EXTENSIONS if rule.name in _BY_URL else _CHOICE if len(known) > 1 else ()
        if not rule.discriminators:
            rule.slices = {}  # nothing tells them apart
    for child in rule.children.values():
        _trim(child, definitions, below)
    rule.children = {name: child for name, child in rule.children.items() if child.says_something}
    for one in rule.slices.values():
        _trim(one, definitions, owner, "slice")


def _loosen(rule: Rule, known: list[Property]) -> None:
    prop = known[0]
    rule.min = None if rule.min == prop.min else rule.min
    rule.max = None if rule.max == prop.max else rule.max
    rule.binding = None if rule.binding == prop.binding else rule.binding
    rule.max_length = None if rule.max_length == prop.max_length else rule.max_length
    if {p.type for p in known} <= {t.code for t in rule.types} or all(t.code in _IN_PLACE for t in rule.types):
        base = {(p.type, frozenset(p.profiles), frozenset(p.targets)) for p in known}
        if all(_shape(t) in base or not (t.profiles or t.targets) for t in rule.types):
            rule.types = ()


def _shape(rule: TypeRule) -> tuple[str, frozenset[str], frozenset[str]]:
    return rule.code, frozenset(rule.profiles), frozenset(target_names(list(rule.targets)))


def _type_below(rule: Rule, definitions: Definitions, known: list[Property]) -> TypeDefinition:
    """The type the children of an element belong to; Element, which all share, where there are several."""
    name = known[0].type if len(known) == 1 and known[0].type != "Resource" else "Element"
    if name == "Element" and len(rule.types) == 1:
        name = rule.types[0].code
    return definitions.types.get(name) or definitions.types["Element"]


def _properties(owner: TypeDefinition, name: str) -> list[Property]:
    """The properties of a type that an element's name stands for."""
    names = owner.choices.get(name) or ((name,) if name in owner.properties else ())
    return [owner.properties[n] for n in names]
