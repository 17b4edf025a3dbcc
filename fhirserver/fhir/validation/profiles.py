"""Whether a value meets a profile: cardinality, types, fixed and pattern values, bindings, invariants, slices.

FHIR R4: profiling, elementdefinition#slicing, extensibility. What a type asks is asked elsewhere; faults here are of
issue type invariant (HTTP 422). The profile (as opposed to the type) of a reference's target is asked where that is
contained. What cannot be judged is a warning: a profile that is not known, an extension in a context its definition
does not name.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from fhirserver.fhir.definitions import Binding, Definitions, Property
from fhirserver.fhir.definitions_structure import target_names
from fhirserver.fhir.fhirpath import Node, PathError, TooLarge, closure_of, model_of
from fhirserver.fhir.fhirpath.scope import boolean
from fhirserver.fhir.fhirpath.values import compared, system
from fhirserver.fhir.problem import Problem
from fhirserver.fhir.validation.contexts import fits
from fhirserver.fhir.validation.invariants import broken
from fhirserver.fhir.validation.place import MAX_FAULTS, Fault, Place, scope_of, step_to
from fhirserver.fhir.validation.profile_tree import Profile, Rule, read_profile

Item = tuple[str, Node]  # the FHIRPath step to an element, and the element
_MAX_DEPTH = 40
_MAX_CLAIMS = 50
_MAX_SHOWN = 5


class Profiles:
    """The profiles of one Definitions, read when first asked for."""

    def __init__(self, definitions: Definitions) -> None:
        self.definitions = definitions
        self._model = model_of(definitions)
        self._read: dict[str, Profile | None] = {}
        self._lock = threading.Lock()

    def profile(self, url: str) -> Profile | None:
        """The profile of a canonical URL (its version is not looked at); None when it is not known or not readable."""
        url = url.split("|", 1)[0]
        if url in self._read:
            return self._read[url]
        structure = self.definitions.profiles.get(url)
        if structure is None:
            return None
        try:
            read = read_profile(structure, self.definitions)
        except (KeyError, TypeError, ValueError, AttributeError):
            read = None
        with self._lock:
            self._read[url] = read
        return read

    def claimed(self, resource: Mapping[str, Any], place: Place) -> list[Fault]:
        """The faults of a resource against the profiles it claims in meta.profile, of those that are known."""
        faults: list[Fault] = []
        claims = resource.get("meta", {}).get("profile", ())
        for url in dict.fromkeys(claims[:_MAX_CLAIMS]):
            profile = self.profile(url) if type(url) is str else None
            if profile is None:
                faults += self._unknown(resource["resourceType"], url)
                continue
            if not self.definitions.is_subtype(resource["resourceType"], profile.type):
                faults.append(Fault("invariant", ".meta.profile", f"claims a profile on {profile.type}: {url}"))
            else:
                faults += self._of(profile, self._model.root(resource), place, 0)
        return faults

    def _unknown(self, kind: str, url: Any) -> list[Fault]:
        """A profile that is claimed and not known; that of the type itself is asked anyway."""
        if type(url) is not str or url.partition("|")[0] == self.definitions.types[kind].url:
            return []
        text = f"The profile {url[:300]} is not known here: nothing was held against it."
        return [Fault("not-found", ".meta.profile", text, "warning")]

    def extension(self, value: dict[str, Any], place: Place, owner: str) -> list[Fault]:
        """The faults of an extension on an element of the type `owner`, [] when its definition is not known."""
        url = value.get("url")
        profile = self.profile(url) if type(url) is str else None
        if profile is None or profile.type != "Extension":
            return []
        faults = self._of(profile, Node(value, "Extension"), place, 0)
        if not fits(self.definitions, owner, profile.contexts):
            where = ", ".join(profile.contexts[:_MAX_SHOWN])
            faults.append(Fault("extension", "", f"stands on {owner}, but is defined for {where} ({url})", "warning"))
        return faults

    def knows_extension(self, value: Any) -> bool:
        """Whether the definition of an extension is known."""
        profile = self.profile(value["url"]) if type(value) is dict and type(value.get("url")) is str else None
        return profile is not None and profile.type == "Extension"

    def _of(self, profile: Profile, node: Node, place: Place, depth: int) -> list[Fault]:
        faults = _Check(self, profile, place, depth).content(profile.root, node)
        base = self.profile(profile.base) if profile.base else None
        if base is not None and depth < _MAX_DEPTH:
            faults += self._of(base, node, place, depth + 1)
        return faults

    def meets(self, url: str, node: Node, place: Place, depth: int) -> list[Fault] | None:
        """The faults of a value against a profile; None when the profile is not known."""
        profile = self.profile(url)
        return None if profile is None or depth > _MAX_DEPTH else self._of(profile, node, place, depth + 1)


class _Check:
    """One profile on one value."""

    def __init__(self, profiles: Profiles, profile: Profile, place: Place, depth: int) -> None:
        self.profiles, self.profile, self.place, self.depth = profiles, profile, place, depth
        self.definitions, self.model = profiles.definitions, profiles._model

    def content(self, rule: Rule, node: Node) -> list[Fault]:
        """The faults of one value against a rule, not counting how often it is there."""
        faults = [Fault("invariant", "", text) for text in self._value(rule, node)]
        faults += self._constraints(rule, node)
        for child in rule.children.values():
            faults += self._element(child, node)
            if len(faults) > MAX_FAULTS:
                break
        if rule.content in self.profile.named:
            faults += self.content(self.profile.named[rule.content], node)
        return faults

    def _element(self, rule: Rule, parent: Node) -> list[Fault]:
        items = list(self._items(parent, rule.name))
        faults = self._counted(rule, items, f".{rule.name}", rule.name)
        for step, node in items:
            faults += _under(step, self._types(rule, node) + self.content(rule, node))
        if rule.slices:
            faults += self._slices(rule, items)
        return faults

    def _counted(self, rule: Rule, items: list[Item], step: str, label: str) -> list[Fault]:
        name = f"{label} ({self.profile.url})"
        if rule.min is not None and len(items) < rule.min:
            return [Fault("invariant", step, f"The profile asks for at least {rule.min} {name}")]
        if rule.max is not None and len(items) > rule.max:
            return [Fault("invariant", step, f"The profile allows at most {rule.max} {name}")]
        return []

    def _items(self, parent: Node, name: str) -> Iterator[Item]:
        known = self.definitions.types.get(parent.type)
        if known is None or type(parent.value) is not dict:
            for node in self.model.step(parent, name):
                yield f".{name}", node
            return
        value = parent.value
        for json_name in known.choices.get(name) or (name,):
            if (json_name in value or "_" + json_name in value) and json_name in known.properties:
                yield from self._of_property(parent, known.properties[json_name])

    def _of_property(self, parent: Node, prop: Property) -> Iterator[Item]:
        step = step_to(prop)
        for index, node in enumerate(self.model.of_property(parent.value, prop)):
            yield (f"{step}[{index}]" if prop.is_list else step), node

    def _types(self, rule: Rule, node: Node) -> list[Fault]:
        if not rule.types:
            return []
        fitting = [t for t in rule.types if self.model.is_type(node, t.code)]
        if not fitting:
            names = ", ".join(t.code for t in rule.types)
            return [Fault("invariant", "", f"must be of type {names} ({self.profile.url})")]
        targets = [url for t in fitting for url in t.targets]
        if targets and node.type == "Reference":
            return self._target(targets, node)
        found = [self.profiles.meets(url, node, self.place, self.depth) for t in fitting for url in t.profiles]
        judged = [faults for faults in found if faults is not None]
        return min(judged, key=len) if judged and len(judged) == len(found) else []

    def _target(self, targets: list[str], node: Node) -> list[Fault]:
        names = {p.type if (p := self.profiles.profile(url)) else target_names([url])[:1] for url in targets}
        types = {name if type(name) is str else "".join(name) for name in names}
        known = self.definitions.resource_types
        reference = node.value.get("reference", "") if type(node.value) is dict else ""
        if reference[:1] == "#":
            return self._inside(targets, reference[1:])
        name = reference.split("?")[0].split("/_history")[0].rstrip("/").split("/")
        stated = node.value.get("type") if len(name) < 2 else name[-2]
        if stated not in known or not types <= known or stated in types:
            return []
        return [Fault("invariant", "", f"must refer to {', '.join(sorted(types))} ({self.profile.url})")]

    def _inside(self, targets: list[str], id: str) -> list[Fault]:
        """The faults of a reference to a contained resource, which must meet one of the profiles."""
        contained = self.place.root.get("contained", ())
        found = next((each for each in contained if type(each) is dict and each.get("id") == id), None)
        known = [self.profiles.profile(url) for url in targets]
        if found is None or not all(known):
            return []
        kind = found.get("resourceType", "")
        fitting = [p.url for p in known if p and self.definitions.is_subtype(kind, p.type)]
        node = self.model.root(found)
        judged = [self.profiles.meets(url, node, Place(found, self.place), self.depth) for url in fitting]
        errors = [[f for f in faults or () if f.severity == "error"] for faults in judged]
        if any(not each for each in errors):
            return []
        text = f"refers to a contained resource that does not meet {', '.join(targets[:_MAX_SHOWN])}"
        why = f": {min(errors, key=len)[0].text}" if errors else ""
        return [Fault("invariant", "", f"{text}{why} ({self.profile.url})")]

    def _value(self, rule: Rule, node: Node) -> Iterable[str]:
        value = node.value
        if rule.fixed is not None and value != rule.fixed:
            yield f"must have the value that the profile fixes ({self.profile.url})"
        if rule.pattern is not None and not _fits(value, rule.pattern):
            yield f"must have what the pattern of the profile has ({self.profile.url})"
        if rule.binding is not None and not self._bound(rule.binding, value):
            yield f"must have a code from {rule.binding.value_set} ({self.profile.url})"
        if rule.max_length is not None and type(value) is str and len(value) > rule.max_length:
            yield f"must have at most {rule.max_length} characters ({self.profile.url})"
        for bound, sign in ((rule.low, -1), (rule.high, 1)):
            if bound is not None and _beyond(node, Node(bound, node.type), sign):
                yield f"is outside the range of the profile ({self.profile.url})"

    def _bound(self, binding: Binding, value: Any) -> bool:
        codes = self.definitions.codes(binding.value_set)
        if codes is None or value is None:
            return True
        if type(value) is str:
            return any(value in known for known in codes.values())
        if type(value) is not dict:
            return True
        codings = value.get("coding") if "coding" in value or "text" in value else [value]
        return any(c.get("code") in codes.get(c.get("system", ""), ()) for c in codings or ())

    def _constraints(self, rule: Rule, node: Node) -> list[Fault]:
        faults = []
        for constraint in rule.constraints:
            try:
                scope = scope_of(self.place, self.model, node)
                held = boolean(closure_of(constraint.expression)(scope, [node]))
            except TooLarge:
                raise
            except (PathError, Problem):
                continue
            if held is False:
                faults.append(broken(constraint))
        return faults

    def _slices(self, rule: Rule, items: list[Item]) -> list[Fault]:
        faults: list[Fault] = []
        taken: dict[str, list[Item]] = {name: [] for name in rule.slices}
        order = _Order(rule, self.profile.url)
        for step, node in items:
            name = next((n for n, s in rule.slices.items() if self._in_slice(rule, s, node)), None)
            faults += order.next(step, name)
            if name is not None:
                taken[name].append((step, node))
            elif rule.closed:
                faults.append(Fault("invariant", step, f"is in none of the slices of the profile ({self.profile.url})"))
        for name, one in rule.slices.items():
            faults += self._counted(one, taken[name], f".{rule.name}", f"{rule.name}:{name}")
            for step, node in taken[name]:
                faults += _under(step, self._types(one, node) + self.content(one, node))
            if one.slices:
                faults += self._slices(one, taken[name])
        return faults

    def _in_slice(self, rule: Rule, one: Rule, node: Node) -> bool:
        return all(self._discriminated(one, node, kind, path) for kind, path in rule.discriminators)

    def _discriminated(self, one: Rule, node: Node, kind: str, path: str) -> bool:
        found = self._at(node, path)
        rules = list(_rules_at(one, path))
        return _DISCRIMINATORS.get(kind, _by_value)(self, rules, found)

    def _at(self, node: Node, path: str) -> list[Node]:
        if path in ("$this", ""):
            return [node]
        try:
            return closure_of(path)(scope_of(self.place, self.model, node), [node])
        except (PathError, Problem):
            return []

    def distinguishes(self, rule: Rule, node: Node) -> bool:
        """Whether a value is what a rule fixes, in itself and below."""
        return not any(f.severity == "error" for f in self.content(rule, node))


class _Order:
    """Whether items come in the order of their slices, and others only behind them, where that is asked."""

    def __init__(self, rule: Rule, url: str) -> None:
        self._rule = rule
        self._url = url
        self._places = {name: number for number, name in enumerate(rule.slices)}
        self._reached = 0
        self._others = False

    def next(self, step: str, name: str | None) -> list[Fault]:
        """The faults of the next item, which is in the slice of that name or in none."""
        if name is None:
            self._others = True
            return []
        place = self._places[name]
        late = self._rule.ordered and place < self._reached
        self._reached = max(self._reached, place)
        if late:
            return [Fault("invariant", step, f"must come before the slices that follow {name} ({self._url})")]
        if self._rule.at_end and self._others:
            return [Fault("invariant", step, f"must come before what is in no slice ({self._url})")]
        return []


def _by_value(check: _Check, rules: list[Rule], found: list[Node]) -> bool:
    telling = [rule for rule in rules if _tells(rule)]
    return not telling or any(check.distinguishes(rule, node) for node in found for rule in telling)


def _by_existence(_check: _Check, rules: list[Rule], found: list[Node]) -> bool:
    if any(rule.max == 0 for rule in rules):
        return not found
    return bool(found) or not any(rule.min for rule in rules)


def _by_type(check: _Check, rules: list[Rule], found: list[Node]) -> bool:
    codes = [t.code for rule in rules for t in rule.types]
    return not codes or any(check.model.is_type(node, code) for node in found for code in codes)


def _by_profile(check: _Check, rules: list[Rule], found: list[Node]) -> bool:
    urls = [url for rule in rules for t in rule.types for url in t.profiles]
    judged = [check.profiles.meets(url, node, check.place, check.depth) for url in urls for node in found]
    return not urls or any(faults == [] for faults in judged)


_DISCRIMINATORS: Mapping[str, Callable[[_Check, list[Rule], list[Node]], bool]] = {
    "value": _by_value,
    "pattern": _by_value,
    "exists": _by_existence,
    "type": _by_type,
    "profile": _by_profile,
}


def _rules_at(rule: Rule, path: str) -> Iterator[Rule]:
    """The rules a slice has at the path of a discriminator, those of slices on the way included."""
    name, _, rest = path.partition(".")
    if path in ("$this", "") or name.endswith(")"):  # resolve(), ofType(): what is below stands at the element itself
        yield from _rules_at(rule, rest) if rest else iter((rule,))
        return
    urls = [url for t in rule.types for url in t.profiles]
    if name == "url" and urls and "url" not in rule.children:
        yield Rule("url", fixed=urls[0].split("|", 1)[0])
        return
    child = rule.children.get(name)
    for found in (child, *child.slices.values()) if child is not None else ():
        yield from _rules_at(found, rest) if rest else iter((found,))


def _tells(rule: Rule) -> bool:
    own = rule.fixed is not None or rule.pattern is not None or rule.binding is not None
    return own or any(_tells(below) for below in (*rule.children.values(), *rule.slices.values()))


def _fits(value: Any, pattern: Any) -> bool:
    """Whether a value has all that a pattern has; an array has each of the pattern's items somewhere."""
    if type(pattern) is dict:
        return type(value) is dict and all(name in value and _fits(value[name], p) for name, p in pattern.items())
    if type(pattern) is list:
        return type(value) is list and all(any(_fits(item, p) for item in value) for p in pattern)
    return bool(value == pattern)


def _beyond(node: Node, bound: Node, sign: int) -> bool:
    try:
        return compared(system(node), system(bound)) == sign
    except PathError:
        return False


def _under(step: str, faults: list[Fault]) -> list[Fault]:
    return [fault._replace(path=step + fault.path) for fault in faults]
