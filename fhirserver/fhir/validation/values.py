"""Checks of the value of one property: primitives, arrays, codes of required bindings, targets of references.

FHIR R4: json#primitive, terminologies#strength, references, element (ref-1).
"""

from __future__ import annotations

import re
from typing import Any

from fhirserver.fhir import xhtml
from fhirserver.fhir.definitions import CodeList
from fhirserver.fhir.primitives import MAX_STRING, PRIMITIVES
from fhirserver.fhir.validation.place import Check, Fault, Faults, Place, bounded, sound

# Primitive types that take any printable text, and any without a space.
TEXTS = frozenset({"string", "markdown"})
WORDS = frozenset({"code", "uri", "url", "canonical"})
NULL = "must not be null: leave it out instead"
_MAX_SHOWN = 12

_reference = re.compile(
    r"(?:https?://[^?#]*/)?([A-Z][A-Za-z]{1,63})/[A-Za-z0-9\-.]{1,64}(?:/_history/[^/]+)?"
).fullmatch
_conditional = re.compile(r"([A-Z][A-Za-z]{1,63})\?.").match


def stepped(found: list[Fault], step: str, value: Any) -> list[Fault]:
    """The faults of an element that does not repeat, seen from the object it stands in."""
    if type(value) is list:
        return [Fault("structure", step, "must be a single value, not a JSON array")]
    if value is None:
        return [Fault("value", step, NULL)]
    return [f._replace(path=step + f.path) for f in found]


def array(check: Check, step: str, most: int | None) -> Check:
    """The check of an element that repeats."""

    def every(value: Any, place: Place) -> Faults:
        if type(value) is not list:
            return [Fault("structure", step, "must be a JSON array, also for one value")]
        faults: Faults = None
        for index, item in enumerate(value):
            found = check(item, place)
            if found is not None:
                found = [Fault("value", "", NULL)] if item is None else found
                faults, full = bounded((faults or []) + [f._replace(path=f"{step}[{index}]{f.path}") for f in found])
                if full:
                    break
        if not value:
            return [Fault("structure", step, "must not be an empty array: leave the property out instead")]
        if most is not None and len(value) > most:
            faults = [*(faults or []), Fault("structure", step, f"must have at most {most} values")]
        return faults

    return every


def both(first: Check, second: Check) -> Check:
    """The second check runs on what has the structure that the first asks for."""

    def check(value: Any, place: Place) -> Faults:
        found = first(value, place)
        if found is None:
            return second(value, place)
        return found + (second(value, place) or []) if sound(found) else found

    return check


def primitive(name: str) -> Check:
    """The check of a primitive type by its name. Most of what a resource holds is short printable text that is right:
    it needs no other call.
    """
    test = PRIMITIVES[name]
    spaces = name not in WORDS

    def check(value: Any, _place: Place) -> Faults:
        text = test(value)
        return None if text is None else [Fault("value", "", text)]

    def text(value: Any, place: Place) -> Faults:
        if type(value) is str and 0 < len(value) <= MAX_STRING and value.isprintable() and (spaces or " " not in value):
            return None
        return check(value, place)

    return text if name in TEXTS or name in WORDS else check


def narrative(value: Any, _place: Place) -> Faults:
    """The check of an xhtml value."""
    found = xhtml.check(value)
    return None if found is None else [Fault(found[0], "", found[1])]


def code_in(codes: frozenset[str], value_set: str) -> Check:
    """A code that must be one of these."""
    shown = ", ".join(sorted(codes)[:_MAX_SHOWN]) + (", ..." if len(codes) > _MAX_SHOWN else "")
    faults = [Fault("code-invalid", "", f"must be a code of {value_set}: {shown}")]
    well_formed = primitive("code")

    def check(value: Any, place: Place) -> Faults:
        if type(value) is str and value in codes:
            return None
        return well_formed(value, place) or faults

    return check


def concept_in(codes: CodeList, value_set: str) -> Check:
    """A CodeableConcept must have one of these codes."""
    faults = [Fault("code-invalid", ".coding", f"must have a coding from {value_set}")]

    def check(value: Any, _place: Place) -> Faults:
        codings = value.get("coding", ())
        return None if any(c.get("code") in codes.get(c.get("system", ""), ()) for c in codings) else faults

    return check


def coding_in(codes: CodeList, value_set: str) -> Check:
    """A Coding must be one of these codes."""
    faults = [Fault("code-invalid", "", f"must be a coding from {value_set}")]

    def check(value: Any, _place: Place) -> Faults:
        return None if value.get("code") in codes.get(value.get("system", ""), ()) else faults

    return check


def target(known: frozenset[str], targets: frozenset[str]) -> Check:
    """A Reference must point at a type it may point at (no targets: any); a `#id` at a contained resource (ref-1)."""
    allowed = f"must refer to one of: {', '.join(sorted(targets)[:_MAX_SHOWN])}"

    def check(value: Any, place: Place) -> Faults:
        reference = value.get("reference")
        name = value.get("type")
        if reference is not None:
            found = _reference(reference) or _conditional(reference)
            if found is not None:
                name = found[1]
                if name not in known and not reference.startswith("http"):
                    return [Fault("value", ".reference", "refers to a type that is not a resource type of this server")]
            elif reference.startswith("#") and len(reference) > 1:
                name = place.contained.get(reference[1:])
                if name is None:
                    return [
                        Fault("invariant", ".reference", "refers to a contained resource that is not there (ref-1)")
                    ]
        if not targets or name is None or name in targets or name not in known:
            return None
        return [Fault("value", ".reference" if reference else ".type", allowed)]

    return check


def shorter(most: int) -> Check:
    """A text has a maximum length."""

    def check(value: Any, _place: Place) -> Faults:
        return None if len(value) <= most else [Fault("value", "", f"must have at most {most} characters")]

    return check


def fixed(fixed: Any) -> Check:
    """An element has one value only."""

    def check(value: Any, _place: Place) -> Faults:
        return None if value == fixed else [Fault("value", "", "must have the value that its type fixes")]

    return check
