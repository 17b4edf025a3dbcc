"""Terminology operations: ValueSet/$expand and $validate-code, CodeSystem/$lookup, $validate-code and $subsumes,
ConceptMap/$translate. FHIR R4: valueset-operations, codesystem-operations, conceptmap-operations.

They know what is stored on the base or the registry, loaded packages included, and the codes of R4's own value sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fhirserver.auth.access import Access
from fhirserver.fhir import Resource
from fhirserver.fhir.instants import instant_text
from fhirserver.fhir.parameters import parameters_of
from fhirserver.fhir.problem import problem
from fhirserver.fhir.terminology import Concept, Concepts, Inexpandable, Mapped, System, translations
from fhirserver.interactions.codes import Where, canonical
from fhirserver.interactions.model import OperationRow, Request, Response, Server
from fhirserver.interactions.operations import parameters, text_parameter
from fhirserver.interactions.read import current

MOST_SHOWN = 1_000
MOST_WORDS = 20
"""Of a filter."""
MOST_CODINGS = 50
"""Of a CodeableConcept: each is looked for in all of a map, or a value set."""
CODED = ("code", "system", "version", "display", "coding", "codeableConcept")
UNUSED = ("displayLanguage", "date", "abstract", "context")
"""Parameters that may be given and change nothing: what is here has one language and one time."""
Values = dict[str, Any]
Coded = tuple[str, str, str]
"""System ("" where none is said), code, display."""


def expand(server: Server, request: Request, access: Access) -> Response:
    """The ValueSet with its codes: of the URL, the one given, or the resource; `filter` narrows it by words of the
    display. Raises Problem: not-found, not-supported, too-costly.
    """
    names = ("url", "valueSet", "valueSetVersion", "filter", "offset", "count", "activeOnly", "excludeNested")
    values = parameters(request, *names, "includeDesignations", "includeDefinition", *UNUSED)
    value_set, concepts = _value_set(server, request, access, values)
    wanted = [each for each in concepts.values() if not (_true(values, "activeOnly") and each.inactive)]
    for word in _words(text_parameter(values, "filter")):
        wanted = [each for each in wanted if word in each.display.casefold() or word in each.code.casefold()]
    offset, count = _number(values, "offset", 0), _number(values, "count", MOST_SHOWN)
    shown = wanted[offset : offset + min(count, MOST_SHOWN)]
    given = [{"name": name, **_valued(values[name])} for name in ("filter", "offset", "count") if name in values]
    expansion = {
        "identifier": f"urn:uuid:{_uuid(server)}",
        "timestamp": instant_text(server.now()),
        "total": len(wanted),
        "offset": offset,
        **({"parameter": given} if given else {}),
        **({"contains": [_contained(each) for each in shown]} if shown else {}),
    }
    kept = {name: value for name, value in value_set.items() if name not in ("compose", "expansion", "text", "meta")}
    return Response(200, resource={**kept, "expansion": expansion})


def validate_in_set(server: Server, request: Request, access: Access) -> Response:
    """Whether a code, Coding or one of a CodeableConcept is in a ValueSet."""
    names = ("url", "valueSet", "valueSetVersion", "systemVersion", "inferSystem", *CODED, *UNUSED)
    values = parameters(request, *names)
    value_set, concepts = _value_set(server, request, access, values)
    by_code: dict[str, list[Concept]] = {}
    for each in concepts.values():
        by_code.setdefault(each.code, []).append(each)

    def find(system: str, code: str) -> Concept | None:
        return concepts.get((system, code)) or next(
            (c for c in by_code.get(code, ()) if not (system and c.system)), None
        )

    return _judged(values, find, str(value_set.get("url", "the value set")))


def validate_in_system(server: Server, request: Request, access: Access) -> Response:
    """Whether a code, Coding or one of a CodeableConcept is in a CodeSystem."""
    values = parameters(request, "url", "codeSystem", *CODED, *UNUSED)
    url, given = text_parameter(values, "url"), values.get("codeSystem")
    if isinstance(given, dict):
        with _sound("code system", "codeSystem"):
            system: System | None = System(given)
    elif request.id:
        system = System(current(server, access, "CodeSystem", request.id, request).resource())
    else:
        url = url or next(iter(_coded(values)))[0]
        system = Where(server, access).terminology.system(url)
    known = _known_codes(server, url) if system is None else frozenset[str]()
    if system is None and not known:
        raise problem("not-found", f"The CodeSystem {url[:300]} is not known here.", "url")
    name = system.url if system else url

    def find(said: str, code: str) -> Concept | None:
        if said and said != name:
            return None
        if system is None:
            return Concept(name, code) if code in known else None
        return system.concept(code) if code in system.entries else None

    with _sound("code system", "codeSystem"):
        return _judged(values, find, name)


def lookup(server: Server, request: Request, access: Access) -> Response:
    """What a CodeSystem says of a code: display, definition, designations, parents, children, properties.

    Raises Problem(not-found): the system, or the code in it.
    """
    values = parameters(request, "code", "system", "version", "coding", "property", *UNUSED)
    url, code, _ = next(iter(_coded(values)))
    where = Where(server, access)
    system = where.terminology.system(url)
    if system is None and code in _known_codes(server, url):
        return _answered([("name", url), ("display", code)])
    if system is None:
        raise problem("not-found", f"The CodeSystem {url[:300]} is not known here.", "system")
    if code not in system.entries:
        raise problem("not-found", f"{url[:300]} has no code {code[:200]}.", "code")
    entry, concept = system.entries[code], system.concept(code)
    found: list[tuple[str, Any]] = [("name", str(system.resource.get("name", url)))]
    found += [("version", concept.version)] if concept.version else []
    found.append(("display", concept.display or code))
    found += [("designation", list(_designated(each))) for each in entry.get("designation", ())]
    found += [("property", list(each)) for each in _properties(system, code, entry)]
    return _answered(found)


def subsumes(server: Server, request: Request, access: Access) -> Response:
    """How two codes of a CodeSystem are to each other: equivalent, subsumes, subsumed-by, not-subsumed."""
    values = parameters(request, "codeA", "codeB", "system", "version", "codingA", "codingB", *UNUSED)
    pairs = [_coding(values.get(f"coding{letter}")) for letter in "AB"]
    url = text_parameter(values, "system") or next((pair[0] for pair in pairs if pair), "")
    codes = [
        pair[1] if pair else text_parameter(values, f"code{letter}") for pair, letter in zip(pairs, "AB", strict=True)
    ]
    if request.id:
        system: System | None = System(current(server, access, "CodeSystem", request.id, request).resource())
    else:
        system = Where(server, access).terminology.system(url)
    if system is None:
        raise problem("not-found", f"The CodeSystem {url[:300]} is not known here.", "system")
    for code in codes:
        if code not in system.entries:
            raise problem("not-found", f"{system.url[:300]} has no code {code[:200]}.", "code")
    first, second = codes
    if first == second:
        outcome = "equivalent"
    elif first in system.above(second):
        outcome = "subsumes"
    else:
        outcome = "subsumed-by" if second in system.above(first) else "not-subsumed"
    return Response(200, resource=parameters_of([{"name": "outcome", "valueCode": outcome}]))


def translate(server: Server, request: Request, access: Access) -> Response:
    """What a code is in another system, by a ConceptMap: of the URL, the one given, or the resource. Raises
    Problem(not-found).
    """
    names = ("url", "conceptMap", "conceptMapVersion", "source", "target", "targetsystem", "reverse", "dependency")
    values = parameters(request, *names, *CODED)
    given, url = values.get("conceptMap"), text_parameter(values, "url")
    if request.id:
        concept_map: Resource | None = current(server, access, "ConceptMap", request.id, request).resource()
    elif isinstance(given, dict):
        concept_map = given
    elif url:
        concept_map = canonical(Where(server, access), "ConceptMap", url)
    else:
        raise problem("required", "Name the map: url, or conceptMap, or call it on a ConceptMap.", "url")
    if concept_map is None:
        raise problem("not-found", f"The ConceptMap {url[:300]} is not known here.", "url")
    target, reverse = text_parameter(values, "targetsystem"), _true(values, "reverse")
    codes = _coded(values)
    with _sound("concept map", "conceptMap"):
        found: list[Mapped] = []
        for system, code in dict.fromkeys((system, code) for system, code, _ in codes):
            found += translations(concept_map, system, code, target=target, reverse=reverse)
            if len(found) > MOST_SHOWN:
                raise problem("too-costly", f"The map has more than {MOST_SHOWN} translations of this.", "conceptMap")
    matched = any(each.equivalence not in ("unmatched", "disjoint") for each in found)
    listed: list[Resource] = [{"name": "result", "valueBoolean": matched}]
    if not matched:
        listed.append({"name": "message", "valueString": "The map has no translation of this code."})
    return Response(200, resource=parameters_of([*listed, *(_match(each) for each in found)]))


def _value_set(server: Server, request: Request, access: Access, values: Values) -> tuple[Resource, Concepts]:
    where, given = Where(server, access), values.get("valueSet")
    url, version = text_parameter(values, "url"), text_parameter(values, "valueSetVersion")
    terminology = where.terminology
    try:
        with _sound("value set", "valueSet"):
            if request.id:
                found = current(server, access, "ValueSet", request.id, request).resource()
                return found, terminology.concepts_of(found)
            if isinstance(given, dict):
                return given, terminology.concepts_of(given)
            if not url:
                raise problem("required", "Name the value set: url, or valueSet, or call it on a ValueSet.", "url")
            named = f"{url}|{version}" if version else url
            concepts = terminology.concepts(named)
    except Inexpandable as why:
        raise problem(
            why.code, f"This value set cannot be expanded: {why}."[:500], status=_STATUS.get(why.code, 0)
        ) from None
    held = canonical(where, "ValueSet", named) or {"resourceType": "ValueSet", "url": url, "status": "active"}
    return held, concepts


_STATUS = {"not-supported": 422, "too-costly": 422}


@contextmanager
def _sound(what: str, parameter: str) -> Iterator[None]:
    """What is given in a request was not validated, as what is stored was. Raises Problem(invalid)."""
    try:
        yield
    except (KeyError, TypeError, AttributeError):
        raise problem("invalid", f"This {what} is not valid: check it with $validate.", parameter) from None


def _words(text: str) -> set[str]:
    words = set(text.casefold().split())
    if len(words) > MOST_WORDS:
        raise problem("too-costly", f"A filter has at most {MOST_WORDS} words.", "filter")
    return words


def _known_codes(server: Server, system: str) -> frozenset[str]:
    """The codes of a system that R4's value sets list, where the system itself is not stored."""
    lists = server.definitions.code_lists
    own = system.replace("http://hl7.org/fhir/", "http://hl7.org/fhir/ValueSet/")
    own = own.replace("http://terminology.hl7.org/CodeSystem/", "http://terminology.hl7.org/ValueSet/")
    return lists[own].get(system, frozenset()) if own in lists else frozenset()


def _coded(values: Values) -> list[Coded]:
    """The codes asked about. Raises Problem(required)."""
    concept = values.get("codeableConcept")
    codings = concept.get("coding") if isinstance(concept, dict) else None
    codings = codings if isinstance(codings, list) else []
    if len(codings) > MOST_CODINGS:
        raise problem("too-costly", f"A codeableConcept has at most {MOST_CODINGS} codings here.", "codeableConcept")
    found = [pair for pair in (_coding(values.get("coding")), *map(_coding, codings)) if pair]
    code = text_parameter(values, "code")
    if code:
        found.append((text_parameter(values, "system"), code, text_parameter(values, "display")))
    if not found:
        raise problem("required", "Say which code: code (with system), coding or codeableConcept.", "code")
    return found


def _coding(value: Any) -> Coded | None:
    if isinstance(value, str) and "|" in value:  # as a search writes it, in a URL
        system, _, code = value.partition("|")
        return system, code, ""
    if not isinstance(value, dict) or not isinstance(value.get("code"), str):
        return None
    return str(value.get("system", "")), value["code"], str(value.get("display", ""))


def _judged(values: Values, find: Any, where: str) -> Response:
    codes = _coded(values)
    for system, code, display in codes:
        concept = find(system, code)
        if concept is None:
            continue
        fits = not display or not concept.display or display.casefold() == concept.display.casefold()
        found: list[tuple[str, Any]] = [("result", fits)]
        if not fits:
            found.append(("message", f"{code} is in {where}, but its display is {concept.display!r}."))
        found += [("display", concept.display)] if concept.display else []
        return _answered([*found, ("code", code), *([("system", concept.system)] if concept.system else [])])
    named = ", ".join("|".join(part for part in (system, code) if part) for system, code, _ in codes)
    return _answered([("result", False), ("message", f"{named} is not in {where}."[:1000])])


def _properties(system: System, code: str, entry: Mapping[str, Any]) -> Iterator[list[Resource]]:
    if entry.get("definition"):
        yield [{"name": "code", "valueCode": "definition"}, {"name": "value", "valueString": entry["definition"]}]
    children = [each for each, parents in system.parents.items() if code in parents]
    for name, codes in (("parent", sorted(system.parents[code])), ("child", children)):
        for each in codes:
            yield [{"name": "code", "valueCode": name}, {"name": "value", "valueCode": each}]
    for each in entry.get("property", ()):
        value = next(((name, value) for name, value in each.items() if name.startswith("value")), None)
        if value and each.get("code") != "subsumedBy":
            yield [{"name": "code", "valueCode": each.get("code")}, {"name": "value", value[0]: value[1]}]


def _designated(each: Resource) -> Iterator[Resource]:
    for name, kind in (("language", "valueCode"), ("use", "valueCoding"), ("value", "valueString")):
        if name in each:
            yield {"name": name, kind: each[name]}


def _match(mapped: Mapped) -> Resource:
    concept = {"system": mapped.concept.system, "code": mapped.concept.code, "display": mapped.concept.display}
    part: list[Resource] = [{"name": "equivalence", "valueCode": mapped.equivalence}]
    if mapped.concept.code:
        part.append({"name": "concept", "valueCoding": {name: value for name, value in concept.items() if value}})
    if mapped.source:
        part.append({"name": "source", "valueUri": mapped.source})
    return {"name": "match", "part": part}


def _contained(concept: Concept) -> Resource:
    said: Resource = {
        "system": concept.system,
        "version": concept.version,
        "code": concept.code,
        "display": concept.display,
    }
    flags = {"abstract": concept.abstract, "inactive": concept.inactive}
    return {name: value for name, value in {**said, **flags}.items() if value}


def _answered(found: Iterable[tuple[str, Any]]) -> Response:
    listed = []
    for name, value in found:
        listed.append(
            {"name": name, "part": value} if isinstance(value, list) else {"name": name, **_valued(value, name)}
        )
    return Response(200, resource=parameters_of(listed))


_KINDS = {"code": "valueCode", "system": "valueUri"}


def _valued(value: Any, name: str = "") -> Resource:
    if isinstance(value, bool):
        return {"valueBoolean": value}
    if isinstance(value, int):
        return {"valueInteger": value}
    return {_KINDS.get(name, "valueString"): str(value)}


def _true(values: Values, name: str) -> bool:
    return values.get(name) in (True, "true")


def _number(values: Values, name: str, default: int) -> int:
    text = str(values.get(name, default))
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise problem("invalid", f"{name} must be a whole number.", name)
    return int(text)


def _uuid(server: Server) -> str:
    id = server.new_id()
    return f"{id[:8]}-{id[8:12]}-4{id[13:16]}-8{id[17:20]}-{id[20:32]}"


_LEVELS = ("type", "instance")
# fmt: off
OPERATIONS: tuple[OperationRow, ...] = tuple(
    OperationRow(name, (type,), levels, "r", function, False, definition=f"http://hl7.org/fhir/OperationDefinition/{type}-{name}")
    for name,           type,         levels,    function in (
        ("expand",        "ValueSet",   _LEVELS,   expand),
        ("validate-code", "ValueSet",   _LEVELS,   validate_in_set),
        ("lookup",        "CodeSystem", ("type",), lookup),
        ("validate-code", "CodeSystem", _LEVELS,   validate_in_system),
        ("subsumes",      "CodeSystem", _LEVELS,   subsumes),
        ("translate",     "ConceptMap", _LEVELS,   translate),
    )
)
# fmt: on
