"""AccessPolicies: compiled once, each a layer of the decision that can only narrow it.

What a policy says of resources that are there is a search (`criteria`), so that it holds in the database filter and
with it for reads, searches, includes, chains, histories and notifications alike. What it says of the request or of the
resource sent is a condition: it sees {request, client, user, organization}, and `resource` where one is written. A
condition that cannot be evaluated permits nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any
from urllib.parse import parse_qsl

from jsonschema_rs import Draft7Validator, RegexOptions, ValidationError

from fhirserver.auth import matcho
from fhirserver.auth.layers import Alternatives, Layer, clauses_of
from fhirserver.auth.principal import Principal
from fhirserver.fhir import Resource
from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.fhirpath import truth
from fhirserver.fhir.json import decode, encode
from fhirserver.fhir.problem import Problem, problem

TYPE = "AccessPolicy"
ACTIONS = {"c": "create", "r": "read", "u": "update", "d": "delete", "s": "search"}
MOST_TEXT = 16_384
MOST_DEPTH = 5
MOST_CONDITIONS = 50
MOST_ALTERNATIVES = 64
MOST_STEPS = 200_000
"""Steps of a FHIRPath expression, which are some 70 ms: a policy is asked on every request."""
ROOTS = ("request", "resource", "client", "user", "organization")

Facts = Mapping[str, Any]
Evaluate = Callable[[Facts, str, bool], Alternatives]
"""(facts, resource type, whether the resource is yet to come) -> what is permitted."""


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """One compiled AccessPolicy: where and whom it concerns, and what it permits there."""

    id: str
    name: str
    organization: str
    links: frozenset[str]
    actions: frozenset[str]
    types: frozenset[str]
    operations: frozenset[str]
    evaluate: Evaluate

    def concerns(self, principal: Principal, organization: str, owner: str) -> bool:
        """Whether it is about this caller on this base. `owner` is the organization that manages the caller's
        client.
        """
        if self.organization and self.organization != organization:
            return False
        homes = {owner, *principal.roles} - {""}
        names = {f"Organization/{id}" for id in homes}
        if principal.kind == "user":
            names.add(f"User/{principal.id}")
        client = principal.id if principal.kind == "client" else principal.client
        if client:
            names.add(f"ClientApplication/{client}")
        return not self.links or bool(self.links & names)

    def layer(self, facts: Facts) -> Layer:
        """The layer for a caller and what is known of the request."""

        def judged(type_: str, letter: str, resource: Resource | None) -> Alternatives:
            request = {**facts.get("request", {}), "type": type_, "action": ACTIONS[letter]}
            if not self._about(request):
                return ()
            seen = {**facts, "request": request}
            if resource is not None:
                seen["resource"] = resource
            return self.evaluate(seen, type_, resource is None and letter in "cu")

        def refusal(type_: str, letter: str) -> str:
            return f"The AccessPolicy {self.name!r} ({TYPE}/{self.id}) does not permit to {ACTIONS[letter]} {type_}."

        return Layer("policy", lambda type_, letter: judged(type_, letter, None), refusal, judged)

    def _about(self, request: Facts) -> bool:
        """Whether the policy says anything about this: else it permits."""
        return (
            (not self.actions or request["action"] in self.actions)
            and (not self.types or request["type"] in self.types)
            and (not self.operations or request.get("operation") in self.operations)
        )


def compiled(resource: Resource, definitions: Definitions) -> Policy:
    """The policy. Raises Problem(value or required) where it says what cannot be evaluated."""
    left = [MOST_CONDITIONS]
    return Policy(
        id=str(resource.get("id", "")),
        name=str(resource.get("name", "")),
        organization=_reference(resource.get("organization")).removeprefix("Organization/"),
        links=frozenset(_reference(link) for link in _each(resource, "link", dict)),
        actions=frozenset(_each(resource, "action", str)),
        types=frozenset(_each(resource, "type", str)),
        operations=frozenset(f"${name.removeprefix('$')}" for name in _each(resource, "operation", str)),
        evaluate=_condition(resource, definitions, left, 0),
    )


def closed(resource: Resource) -> Policy:
    """What stands for a policy that cannot be compiled any more: it concerns the same callers and permits nothing."""
    empty: frozenset[str] = frozenset()
    organization = _reference(resource.get("organization")).removeprefix("Organization/")
    links = frozenset(_reference(link) for link in resource.get("link", ()))
    name = str(resource.get("name", ""))
    return Policy(str(resource.get("id", "")), name, organization, links, empty, empty, empty, lambda f, t, later: None)


def in_force(resources: Iterable[Resource], definitions: Definitions) -> tuple[Policy, ...]:
    """The policies that are active, compiled; one that cannot be refuses."""
    found = []
    for resource in resources:
        if resource.get("active") is not False:
            try:
                found.append(compiled(resource, definitions))
            except Problem:
                found.append(closed(resource))
    return tuple(found)


def facts_of(principal: Principal, organization: str, client: Resource | None) -> dict[str, Any]:
    """What conditions see of a caller: no keys, nothing private."""
    facts: dict[str, Any] = {"request": {"organization": organization}, "organization": {"id": organization}}
    if client is not None:
        hidden = ("jwks", "jwksUri", "meta", "secret")
        facts["client"] = {name: value for name, value in client.items() if name not in hidden}
    if principal.kind == "user":
        role = principal.roles.get(organization, "")
        facts["user"] = {"id": principal.id, "name": principal.name, "organization": principal.organization} | (
            {"role": role} if role else {}
        )
    return facts


# Conditions


def _condition(element: Mapping[str, Any], definitions: Definitions, left: list[int], depth: int) -> Evaluate:
    left[0] -= 1
    if depth > MOST_DEPTH or left[0] < 0:
        text = f"A policy has at most {MOST_CONDITIONS} conditions, nested {MOST_DEPTH} deep."
        raise problem("too-costly", text, TYPE)
    engine = str(element.get("engine", ""))
    if engine == "complex":
        holds = _complex(element, definitions, left, depth)
    elif engine in _ENGINES:
        holds = _simple(*_ENGINES[engine](element, definitions))
    else:
        raise problem("value", f"engine is {', '.join(_ENGINES)} or complex.", f"{TYPE}.engine")
    narrow = _criteria(_each(element, "criteria", str), definitions)
    return lambda facts, type_, later: _both(holds(facts, type_, later), narrow(type_))


def _simple(text: str, test: Callable[[Facts], bool]) -> Evaluate:
    """A condition that permits everything or nothing. What looks at a resource waits for it where one will come."""
    waits = "resource" in text

    def evaluate(facts: Facts, type_: str, later: bool) -> Alternatives:
        if waits and later:
            return ()
        return () if test(facts) else None

    return evaluate


def _complex(element: Mapping[str, Any], definitions: Definitions, left: list[int], depth: int) -> Evaluate:
    every = [_condition(part, definitions, left, depth + 1) for part in _each(element, "and", dict)]
    some = [_condition(part, definitions, left, depth + 1) for part in _each(element, "or", dict)]
    if not every and not some:
        raise problem("required", "A complex policy needs and, or, or both.", f"{TYPE}.and")

    def evaluate(facts: Facts, type_: str, later: bool) -> Alternatives:
        permitted: Alternatives = ()
        for part in every:
            permitted = _both(permitted, part(facts, type_, later))
        return _both(permitted, _either([part(facts, type_, later) for part in some])) if some else permitted

    return evaluate


def _both(one: Alternatives, two: Alternatives) -> Alternatives:
    """What both permit. Too many combinations permit nothing: no narrowing may get lost."""
    if one is None or two is None:
        return None
    if not one or not two:
        return one or two
    if len(one) * len(two) > MOST_ALTERNATIVES:
        return None
    return tuple((*first, *second) for first, second in product(one, two))


def _either(parts: list[Alternatives]) -> Alternatives:
    permitting = [part for part in parts if part is not None]
    if not permitting:
        return None
    return () if () in permitting else tuple(each for part in permitting for each in part)


def _allow(element: Mapping[str, Any], definitions: Definitions) -> tuple[str, Callable[[Facts], bool]]:
    return "", lambda facts: True


def _matcho(element: Mapping[str, Any], definitions: Definitions) -> tuple[str, Callable[[Facts], bool]]:
    text = _text(element, "pattern")
    value = _json(text, "pattern")
    if not isinstance(value, dict) or not value or not set(value) <= {*ROOTS, "$not", "$one-of"}:
        raise problem("value", f"The pattern is an object with members of {', '.join(ROOTS)}.", f"{TYPE}.pattern")
    test = matcho.matcher(value)

    def holds(facts: Facts) -> bool:
        try:
            return test(facts)
        except matcho.TooCostly:
            return False

    return text, holds


def _fhirpath(element: Mapping[str, Any], definitions: Definitions) -> tuple[str, Callable[[Facts], bool]]:
    text = _text(element, "expression")
    test = truth(text, definitions, MOST_STEPS)

    def holds(facts: Facts) -> bool:
        variables: dict[str, Any] = {name: facts.get(name, []) for name in ROOTS}
        try:
            return test(dict(facts), variables | {"now": facts.get("request", {}).get("time", "")}) is True
        except Problem:
            return False

    return text, holds


def _schema(element: Mapping[str, Any], definitions: Definitions) -> tuple[str, Callable[[Facts], bool]]:
    text = _text(element, "schema")
    value = _json(text, "schema")
    if _refers(value):
        # References that fan out take a time that doubles with each; what they say can be written where it is meant.
        raise problem("value", "The schema may not use $ref: write each part where it is used.", f"{TYPE}.schema")
    try:
        # Offline: a schema may not make the server fetch anything. Its regular expressions take linear time.
        validator = Draft7Validator(json.loads(text), pattern_options=RegexOptions(), offline=True)
    except (ValueError, ValidationError) as error:
        said = str(error).partition("\n")[0][:200]
        raise problem("value", f"The schema cannot be used: {said}", f"{TYPE}.schema") from None
    if not isinstance(value, dict):
        raise problem("value", "The schema is an object.", f"{TYPE}.schema")
    return text, lambda facts: validator.is_valid(json.loads(encode(dict(facts))))


def _refers(value: Any) -> bool:
    if isinstance(value, dict):
        return "$ref" in value or any(map(_refers, value.values()))
    return isinstance(value, list) and any(map(_refers, value))


_ENGINES: Mapping[str, Callable[..., tuple[str, Callable[[Facts], bool]]]] = {
    "allow": _allow,
    "matcho": _matcho,
    "fhirpath": _fhirpath,
    "json-schema": _schema,
}


def _criteria(texts: Iterable[str], definitions: Definitions) -> Callable[[str], Alternatives]:
    """Type -> the searches of it, any of which a resource must match; everything of a type that none is about."""
    found: dict[str, list[Any]] = {}
    for text in texts:
        type_, _, query = text.partition("?")
        pairs = tuple(parse_qsl(query, keep_blank_values=True))
        if type_ not in definitions.resource_types or not pairs:
            raise problem("value", "criteria is a search, as in Observation?category=exam.", f"{TYPE}.criteria")
        clauses = clauses_of(definitions, type_, pairs)
        if clauses is None:
            said = f"criteria may only use {type_}'s own search parameters, without chains or value sets."
            raise problem("value", said, f"{TYPE}.criteria")
        found.setdefault(type_, []).append(clauses)
    return lambda type_: tuple(found.get(type_, ()))


def _each(element: Mapping[str, Any], name: str, kind: type) -> list[Any]:
    """The values of an element that repeats. Raises Problem(structure) where they are something else."""
    values = element.get(name, [])
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        expected = "texts" if kind is str else "objects"
        raise problem("structure", f"{name} is an array of {expected}.", f"{TYPE}.{name}")
    return values


def _text(element: Mapping[str, Any], name: str) -> str:
    text = element.get(name)
    if not isinstance(text, str) or not text.strip():
        raise problem("required", f"The engine {element.get('engine')} needs {name}.", f"{TYPE}.{name}")
    if len(text) > MOST_TEXT:
        raise problem("too-long", f"{name} has at most {MOST_TEXT} characters.", f"{TYPE}.{name}", status=422)
    return text


def _json(text: str, name: str) -> Any:
    try:
        return decode(text)
    except (Problem, RecursionError):
        raise problem("value", f"{name} must be the text of a JSON object.", f"{TYPE}.{name}") from None


def _reference(value: Any) -> str:
    text = str(value.get("reference", "")) if isinstance(value, Mapping) else ""
    return "/".join(text.split("/_history/")[0].split("/")[-2:])
