"""Worlds to draw: scopes, policies, and what they should permit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from fhirserver.fhir.json import encode

CATEGORIES, GENDERS = ("exam", "laboratory"), ("female", "male")
ACTIONS = {"c": "create", "r": "read", "u": "update", "d": "delete", "s": "search"}
Resource = dict[str, Any]
Judge = Callable[[str, str, Resource], bool]
"""(type, letter, resource) -> whether it is permitted."""
letters = st.sets(st.sampled_from("cruds"), min_size=1).map(lambda found: "".join(x for x in "cruds" if x in found))
wide = st.sampled_from(("cruds", "cruds", "rs")) | letters
wildcards = st.builds("system/*.{}".format, wide)
plain = st.builds("system/{}.{}".format, st.sampled_from(("Patient", "Observation")), wide)
narrow = st.builds("system/Observation.{}?category={}".format, wide, st.sampled_from(CATEGORIES)) | st.builds(
    "system/Patient.{}?gender={}".format, wide, st.sampled_from(GENDERS)
)
scopes = st.lists(wildcards | plain | plain | narrow | narrow, min_size=1, max_size=3).map(" ".join)


@dataclass(frozen=True)
class Drawn:
    """A policy and what it means."""

    elements: Resource
    permits: Judge


def by_category(value: str) -> Drawn:
    return Drawn(
        {"engine": "allow", "criteria": [f"Observation?category={value}"]},
        lambda type_, letter, resource: type_ != "Observation" or category(resource) == value,
    )


def by_gender(value: str) -> Drawn:
    either: Resource = {
        "engine": "complex",
        "or": [
            {"engine": "allow", "criteria": [f"Patient?gender={value}"]},
            {"engine": "matcho", "pattern": '{"request": {"action": "search"}}'},
        ],
    }
    return Drawn(
        either, lambda type_, letter, resource: letter == "s" or type_ != "Patient" or resource["gender"] == value
    )


def no_action(letter: str) -> Drawn:
    expression = f"request.action != '{ACTIONS[letter]}'"
    return Drawn({"engine": "fhirpath", "expression": expression}, lambda type_, asked, resource: asked != letter)


def only_type(value: str) -> Drawn:
    schema = encode({"properties": {"request": {"properties": {"type": {"const": value}}}}}).decode()
    return Drawn({"engine": "json-schema", "schema": schema}, lambda type_, letter, resource: type_ == value)


policies = st.lists(
    st.builds(by_category, st.sampled_from(CATEGORIES))
    | st.builds(by_gender, st.sampled_from(GENDERS))
    | st.builds(no_action, st.sampled_from("cruds"))
    | st.builds(only_type, st.sampled_from(("Patient", "Observation"))),
    max_size=2,
)


def category(resource: Resource) -> str:
    return str(resource["category"][0]["coding"][0]["code"])


def covers(text: str, type_: str, letter: str, resource: Resource) -> bool:
    """Whether a text of scopes permits a letter on a resource."""
    for word in text.split():
        named, _, rest = word.removeprefix("system/").partition(".")
        held, _, params = rest.partition("?")
        if named not in ("*", type_) or letter not in held:
            continue
        name, _, value = params.partition("=")
        if not name or (category(resource) if name == "category" else resource["gender"]) == value:
            return True
    return False


BRIEF = settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
LONG = settings(BRIEF, max_examples=100)
