"""The structure of a resource against the element tables: one walk, compiled once per type to closures.

FHIR R4: json, datatypes, elementdefinition, domainresource (dom-2 to dom-5).

A check takes a JSON value and the Place it stands in, and answers None when all is well: the way without faults makes
no list and no path. A fault starts with an empty path; every check on the way up puts its own step before it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

from fhirserver.fhir.definitions import Definitions, Property, TypeDefinition
from fhirserver.fhir.primitives import PRIMITIVES
from fhirserver.fhir.validation import values
from fhirserver.fhir.validation.invariants import Invariants
from fhirserver.fhir.validation.place import (
    KEYWORDS,
    Check,
    Fault,
    Faults,
    Place,
    bounded,
    mentions,
    quoted,
    sound,
    step_to,
)
from fhirserver.fhir.validation.profiles import Profiles

_MAX_SHOWN = 12
_type_name = re.compile(r"[A-Za-z]{1,64}").fullmatch


class Structure:
    """The compiled checks of one Definitions. Made on first use, type by type; safe to use from several threads."""

    def __init__(self, definitions: Definitions) -> None:
        self.definitions = definitions
        self._invariants = Invariants(definitions)
        self._profiles = Profiles(definitions)
        self._ready: dict[str, Check] = {}
        self._making: dict[str, Check] = {}
        self._lock = threading.RLock()

    def resource(self, value: Any, outer: Place | None = None, profiles: bool = True) -> Faults:
        """The faults of a resource; `outer` is the place of the resource that contains it."""
        if type(value) is not dict:
            return [Fault("structure", "", "must be a JSON object with a resourceType")]
        name = value.get("resourceType")
        if type(name) is not str:
            return [Fault("structure", "", "needs a resourceType: the name of its type")]
        if name not in self.definitions.resource_types:
            shown = f" {name}" if _type_name(name) else ""
            return [Fault("structure", "", f"has a resourceType{shown} that is not a resource type of this server")]
        check = self._ready.get(name) or self.check(name)
        place = Place(value, outer, profiles)
        faults = check(value, place)
        if profiles and "meta" in value and sound(faults):
            return (faults or []) + self._profiles.claimed(value, place) or None
        return faults

    def check(self, name: str) -> Check:
        """The check of a type, compiled with every type it leads to."""
        with self._lock:
            check = self._ready.get(name)
            if check is None:
                check = self._compile(name)
                self._ready |= self._making
                self._making = {}
            return check

    def _compile(self, name: str) -> Check:
        known = self._ready.get(name) or self._making.get(name)
        if known is not None:
            return known
        if name in PRIMITIVES or name == "xhtml":
            self._making[name] = check = values.narrative if name == "xhtml" else values.primitive(name)
            return check
        definition = self.definitions.types[name]
        rules: dict[str, Check] = {}
        steps: dict[str, str] = {}
        self._making[name] = check = _object(definition, rules, steps, self._invariants.of_type(definition))
        for prop in definition.properties.values():
            rules[prop.name] = self._property(prop, name)
            if not prop.is_list:
                steps[prop.name] = step_to(prop)
            if self.definitions.types[prop.type].kind == "primitive" and prop.type != "xhtml":
                self._sibling(prop, rules, steps)
        if definition.kind == "resource":
            rules["resourceType"] = _pass
        return check

    def _sibling(self, prop: Property, rules: dict[str, Check], steps: dict[str, str]) -> None:
        """Adds the check of `_name`: the id and extensions of a primitive, in an array where the primitive is one."""
        check, step = self._compile("Element"), f".{prop.element}"
        rules["_" + prop.name] = values.array(check, step, prop.max) if prop.is_list else check
        if not prop.is_list:
            steps["_" + prop.name] = step

    def _property(self, prop: Property, owner: str) -> Check:
        """The check of the value of a property of the type `owner`, or of the array where it repeats."""
        more = self._more(prop, owner)
        check = self._value(prop)
        for other in more:
            check = values.both(check, other)
        return values.array(check, step_to(prop), prop.max) if prop.is_list else check

    def _value(self, prop: Property) -> Check:
        if prop.type == "Resource":
            return self._contained if prop.name == "contained" else self._entry
        if self.definitions.is_subtype(prop.type, "Resource"):
            return self._entry
        codes = self._codes(prop)
        return self._compile(prop.type) if codes is None else values.code_in(*codes)

    def _codes(self, prop: Property) -> tuple[frozenset[str], str] | None:
        if prop.type != "code" or prop.binding is None or prop.binding.strength != "required":
            return None
        codes = self.definitions.codes(prop.binding.value_set)
        return None if codes is None else (frozenset().union(*codes.values()), prop.binding.value_set)

    def _more(self, prop: Property, owner: str) -> list[Check]:
        """What is asked of the element beside what its type asks."""
        more: list[Check] = []
        binding = prop.binding
        codes = self.definitions.codes(binding.value_set) if binding and binding.strength == "required" else None
        if binding is not None and codes is not None and prop.type in ("CodeableConcept", "Coding"):
            make = values.concept_in if prop.type == "CodeableConcept" else values.coding_in
            more.append(make(codes, binding.value_set))
        if prop.type == "Reference":
            known = self.definitions.resource_types
            more.append(
                values.target(known, frozenset(prop.targets) if known.issuperset(prop.targets) else frozenset())
            )
        more += [check for check in self._invariants_of(prop) if check is not None]
        if prop.type == "Extension":
            more.append(self._modifier if prop.name == "modifierExtension" else self._extension(owner))
        if prop.max_length is not None:
            more.append(values.shorter(prop.max_length))
        if prop.fixed is not None:
            more.append(values.fixed(prop.fixed))
        return more

    def _invariants_of(self, prop: Property) -> list[Check | None]:
        definition = self.definitions.types[prop.type]
        own = self._invariants.check(prop.constraints, definition) if prop.constraints else None
        return [own, *(self._invariants.of_profile(url, definition) for url in prop.profiles)]

    def _extension(self, owner: str) -> Check:
        def check(value: Any, place: Place) -> Faults:
            return self._profiles.extension(value, place, owner) or None if place.profiles else None

        return check

    def _modifier(self, value: Any, place: Place) -> Faults:
        if not place.profiles or self._profiles.knows_extension(value):
            return None
        text = "The meaning of this modifierExtension is not known here, so that nothing can be said about the rest."
        return [Fault("extension", "", text)]

    def _entry(self, value: Any, place: Place) -> Faults:
        return self.resource(value, None, place.profiles)

    def _contained(self, value: Any, place: Place) -> Faults:
        faults = self.resource(value, place, place.profiles) or []
        if type(value) is dict:
            faults += _contained_faults(value, place.mentioned)
        return faults or None


def _contained_faults(value: dict[str, Any], mentioned: frozenset[str]) -> list[Fault]:
    faults = []
    if "contained" in value:
        faults.append(Fault("invariant", ".contained", "A contained resource must not contain another (dom-2)."))
    meta = value.get("meta")
    for name, key in (("versionId", "dom-4"), ("lastUpdated", "dom-4"), ("security", "dom-5")):
        if type(meta) is dict and name in meta:
            faults.append(Fault("invariant", f".meta.{name}", f"A contained resource must not have this ({key})."))
    if "id" not in value:
        faults.append(Fault("required", ".id", "A contained resource needs an id to be referred to."))
    elif f"#{value['id']}" not in mentioned and "#" not in mentions(value):
        text = "A contained resource must be referred to from the resource around it, or refer to it (dom-3)."
        faults.append(Fault("invariant", "", text))
    return faults


def _pass(_value: Any, _place: Place) -> Faults:
    return None


def _object(
    definition: TypeDefinition, rules: Mapping[str, Check], steps: Mapping[str, str], invariants: Check | None
) -> Check:
    """The check of a JSON object of a type; `rules` (JSON name -> check) and `steps` (JSON name of what does not
    repeat -> FHIRPath step) may be filled after this.
    """
    required = frozenset(n for n in definition.required if n not in definition.choices)
    choices = bool(definition.choices)
    whole = _whole(definition)
    rule_of = rules.get
    label = definition.name

    def check(value: Any, place: Place) -> Faults:
        if type(value) is not dict:
            return [Fault("structure", "", f"must be a JSON object ({label})")]
        faults: Faults = None
        for name, child in value.items():
            rule = rule_of(name)
            found = rule(child, place) if rule is not None else _unknown(name, label)
            if found is not None:
                if name in steps:
                    found = values.stepped(found, steps[name], child)
                faults, full = bounded((faults or []) + _excused(found, name, child, value))
                if full:
                    return faults
        if choices or not value or (required and not required <= value.keys()):
            faults = (faults or []) + whole(value)
        if invariants is not None and (faults is None or sound(faults)):
            broken = invariants(value, place)
            return broken if not faults else faults + (broken or [])
        return faults or None

    return check


def _whole(definition: TypeDefinition) -> Callable[[dict[str, Any]], list[Fault]]:
    """What an object must have, and what it must not have together."""
    groups = [(element, frozenset(names)) for element, names in definition.choices.items()]
    names_of = [(n, definition.choices.get(n, (n,))) for n in definition.required]

    def check(value: dict[str, Any]) -> list[Fault]:
        if not value:
            return [Fault("structure", "", "must not be empty: leave the property out instead")]
        faults = []
        for element, names in names_of:
            if not any(name in value or "_" + name in value for name in names):
                text = "is required: add it" if len(names) == 1 else f"is required: add one of {_shown(names)}"
                faults.append(Fault("required", f".{quoted(element)}", text))
        for element, group in groups:
            if len(value.keys() & group) > 1:
                faults.append(Fault("structure", f".{element}", f"must be of one type only: keep one of {element}[x]"))
        return faults

    return check


def _shown(names: tuple[str, ...]) -> str:
    return ", ".join(names[:_MAX_SHOWN]) + (", ..." if len(names) > _MAX_SHOWN else "")


def _excused(found: list[Fault], name: str, child: Any, value: dict[str, Any]) -> list[Fault]:
    """The faults without the nulls that an element of the `_name` array stands for, or the reverse (json#primitive)."""
    other = value.get(name[1:] if name.startswith("_") else "_" + name)
    if type(child) is not list or type(other) is not list:
        return found
    nulls = {f"[{i}]" for i, (a, b) in enumerate(zip(child, other, strict=False)) if a is None and b is not None}
    return [f for f in found if not (f.text == values.NULL and f.path[f.path.rfind("[") :] in nulls)]


def _unknown(name: str, label: str) -> list[Fault]:
    shown = name if len(name) <= 64 and name not in KEYWORDS and name.isascii() and name.isidentifier() else ""
    known = f"is not a property of {label}: check its spelling, and the type at the end of its name if it has choices"
    return [Fault("structure", f".{shown}" if shown else "", f"{'' if shown else 'has a property that '}{known}")]
