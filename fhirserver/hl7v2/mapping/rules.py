"""Rules compiled: one function per rule, made once when the maps are loaded, with every check that can be made then.

A rule writes one element: `from` names the v2 field (each repetition gives a value where the target repeats), `as` the
datatype map or primitive it is read as, `table` a code table, `value` a literal, `rules` the members of an object,
`link` a reference to a resource made under a name, `when` its condition.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.problem import Issue, Problem, problem
from fhirserver.hl7v2.mapping import conditions, grammar, values
from fhirserver.hl7v2.mapping.functions import FUNCTIONS, Convert
from fhirserver.hl7v2.mapping.paths import Target, compile_target
from fhirserver.hl7v2.mapping.run import Entry, Run, Unmapped
from fhirserver.hl7v2.mapping.structure import Structures
from fhirserver.hl7v2.mapping.tables import Table
from fhirserver.hl7v2.message import NULL, Segment

Rule = Callable[[Run, Segment, str, Sequence[str], dict[str, Any]], None]
Spec = Mapping[str, Any]

KEYS = frozenset(
    (
        "id",
        "from",
        "to",
        "as",
        "value",
        "table",
        "unmapped",
        "system",
        "when",
        "rules",
        "link",
        "format",
        "plus",
        "note",
        "default",
        "fill",
    )
)
TEXTUAL = frozenset(("string", "markdown", "code", "id", "uri", "url", "canonical"))


class Compiler:
    """Compiles datatype and segment maps. Faults are gathered in `issues`, so that one load names them all."""

    def __init__(
        self,
        definitions: Definitions,
        structures: Structures,
        tables: Mapping[str, Table],
        datatypes: Mapping[str, Spec],
    ) -> None:
        self.definitions = definitions
        self.structures = structures
        self.tables = tables
        self.specs = datatypes
        self.issues: list[Issue] = []
        self.ids: set[str] = set()
        self._made: dict[tuple[str, int], Convert] = {}
        self._making: set[str] = set()

    def fault(self, where: str, text: str) -> None:
        """Notes what is wrong with the maps and where."""
        self.issues.append(Issue("invalid", f"{where}: {text}", (where,)))

    def rules(
        self, name: str, specs: Sequence[Spec], own: str, here: str, type: str, depth: int, *, nested: bool = True
    ) -> list[Rule]:
        """The rules of a map. `own` is its segment ("" in datatype maps), `here` the v2 datatype of `^`, `type` what
        they fill.

        With `nested` the constant rules come last and write only into an object that another rule has begun.
        """
        made: list[tuple[bool, Rule]] = []
        for spec in specs:
            where = f"{name}/{spec.get('id', '?')}"
            try:
                made.append(self._rule(where, spec, own, here, type, depth))
            except Problem as fault:
                for issue in fault.issues:
                    self.fault(where, issue.diagnostics)
        if not nested:
            return [rule for _, rule in made]
        constant = [_where_begun(rule) for is_constant, rule in made if is_constant]
        return [rule for is_constant, rule in made if not is_constant] + constant

    def _rule(self, where: str, spec: Spec, own: str, here: str, type: str, depth: int) -> tuple[bool, Rule]:
        self._known(where, spec)
        check = self.condition(spec, own, here, depth)
        path = compile_target(self.definitions, type, str(spec["to"]))
        element = grammar.target(str(spec["to"]))[0].name
        write = self._writer(where, path)
        if "link" in spec:
            rule, constant = _link(str(spec["link"]), write, path), False
        elif "from" in spec or "format" in spec:
            rule, constant = self._read(where, spec, own, here, path, write, depth), False
        elif "rules" in spec:
            rule, constant = self._object(where, spec, own, here, path, write, depth), False
        else:
            rule, constant = _literal(spec["value"], write, where, own), True
        if spec.get("default"):
            rule = _defaulting(element, rule)
        return constant, rule if check is None else _guarded(check, rule)

    def _known(self, where: str, spec: Spec) -> None:
        unknown = set(spec) - KEYS
        if unknown:
            raise problem("invalid", f"a rule has no `{min(unknown)}`; it may have {', '.join(sorted(KEYS))}")
        if "id" not in spec or "to" not in spec:
            raise problem("invalid", "a rule needs an `id` and a `to`")
        if where in self.ids:
            raise problem("invalid", "this rule id is there already")
        self.ids.add(where)
        if not {"from", "value", "link", "rules", "format"} & set(spec):
            raise problem("invalid", "a rule needs one of from, format, value, link, rules")
        if "table" in spec and spec["table"] not in self.tables:
            raise problem("invalid", f"there is no table {spec['table']}")

    def condition(self, spec: Spec, own: str, here: str, depth: int) -> conditions.Check | None:
        """The compiled `when` of a rule, None where it has none."""
        if "when" not in spec:
            return None
        test = grammar.condition(str(spec["when"]))
        for src in conditions.sources_of(test):
            self.structures.check(src, here)
        return conditions.compile_condition(test, own, depth)

    def _writer(self, where: str, path: Target) -> Callable[[Run, Segment, dict[str, Any], Any, str], None]:
        put, text, is_list = path.put, path.text, path.property.is_list

        def write(run: Run, segment: Segment, out: dict[str, Any], value: Any, source: str) -> None:
            put(out, value)
            if run.trace:
                run.hits.add(where)
                index = f"[{len(out.get(text, ())) - 1}]" if is_list and text in out else ""
                run.entry.traces.append((f"{run.prefix}{text}{index}", _place(segment, source), where))

        return write

    def _read(self, where: str, spec: Spec, own: str, here: str, path: Target, write: Any, depth: int) -> Rule:
        if "format" in spec:
            for src in conditions.format_sources(str(spec["format"])):
                self.structures.check(src, here)
            return self._formatted(spec, own, path, write, depth)
        src = grammar.source(str(spec["from"]))
        datatype = self.structures.check(src, here)
        inner = conditions.depth_of(src, depth)
        convert = self._convert(where, spec, own, datatype, path, inner)
        if "fill" in spec:
            convert = _filled(convert, self._members_of(path, spec["fill"]))
        if src.segment in (own, "^") or src.segment.startswith("$") or src.field:
            return _fields(src, own, depth, convert, write, path)
        raise problem("invalid", f"`{src}` cannot be read here")

    def _members_of(self, path: Target, literal: Spec) -> Spec:
        for name in literal:
            compile_target(self.definitions, path.property.type, str(name))
        return literal

    def _formatted(self, spec: Spec, own: str, path: Target, write: Any, depth: int) -> Rule:
        text, formatted = str(spec["format"]), conditions.compile_format(str(spec["format"]), own, depth)
        primitive = values.PRIMITIVES[self._primitive(str(spec.get("as", path.property.type)), path)]

        def rule(run: Run, segment: Segment, raw: str, parts: Sequence[str], out: dict[str, Any]) -> None:
            value = primitive(run, formatted(run, segment, raw, parts))
            if value is not None:
                write(run, segment, out, value, text)

        return rule

    def _object(self, where: str, spec: Spec, own: str, here: str, path: Target, write: Any, depth: int) -> Rule:
        members = self.rules(where, spec["rules"], own, here, path.property.type, depth)

        def rule(run: Run, segment: Segment, raw: str, parts: Sequence[str], out: dict[str, Any]) -> None:
            item: dict[str, Any] = {}
            _fill(run, path.text, members, segment, raw, parts, item)
            if item:
                write(run, segment, out, item, "")

        return rule

    def _convert(self, where: str, spec: Spec, own: str, datatype: str, path: Target, depth: int) -> Convert:
        if "value" in spec:
            literal = spec["value"]
            return lambda run, segment, text: copy.deepcopy(literal) if values.leaf(run, text, depth) else None
        if "rules" in spec:
            return self._members(where, spec, own, datatype, path, depth)
        kind = str(spec.get("as", path.property.type))
        if kind in FUNCTIONS:
            return self._function(kind, spec, own, depth)
        if kind in self.specs:
            return self._mapped(where, spec, kind, path, depth)
        if "table" in spec:
            return self._coded(where, spec, path, depth)
        primitive = values.PRIMITIVES[self._primitive(kind, path)]
        return lambda run, segment, text: primitive(run, values.leaf(run, text, depth))

    def _primitive(self, kind: str, path: Target) -> str:
        wanted = path.property.type
        if kind not in values.PRIMITIVES:
            raise problem("invalid", f"`as: {kind}` is neither a datatype map, a function nor a primitive type")
        if kind != wanted and not {kind, wanted} <= TEXTUAL:
            raise problem("invalid", f"`{path.text}` is a {wanted}, not a {kind}")
        return kind

    def _members(self, where: str, spec: Spec, own: str, datatype: str, path: Target, depth: int) -> Convert:
        members = self.rules(where, spec["rules"], own, datatype or "varies", path.property.type, depth)

        def convert(run: Run, segment: Segment, text: str) -> Any:
            item: dict[str, Any] = {}
            _fill(run, path.text, members, segment, text, values.parts_of(run, text, depth), item)
            return item or None

        return convert

    def _mapped(self, where: str, spec: Spec, kind: str, path: Target, depth: int) -> Convert:
        made, wanted = str(self.specs[kind]["type"]), path.property.type
        is_resource = made in self.definitions.resource_types
        if made != wanted and not (is_resource and wanted == "Reference"):
            raise problem("invalid", f"`{path.text}` is a {wanted}, but {kind} makes a {made}")
        targets = path.property.targets
        if is_resource and targets and made not in targets:
            raise problem("invalid", f"`{path.text}` cannot refer to a {made}")
        convert = self.datatype(kind, depth)
        table = self.tables.get(str(spec.get("table", "")))
        system = str(spec.get("system", ""))
        return _with_codes(where, convert, table, system, depth, wanted) if table or system else convert

    def _coded(self, where: str, spec: Spec, path: Target, depth: int) -> Convert:
        table, unmapped = self.tables[str(spec["table"])], spec.get("unmapped")
        is_code = path.property.type in TEXTUAL
        is_boolean = path.property.type == "boolean"
        if not is_code and not is_boolean and path.property.type not in ("Coding", "CodeableConcept"):
            raise problem(
                "invalid", f"`{path.text}` is a {path.property.type}: a table gives a code, Coding or CodeableConcept"
            )

        def convert(run: Run, segment: Segment, text: str) -> Any:
            code = values.leaf(run, text, depth)
            if not code:
                return None
            mapped = table.translate(code)
            if mapped is None:
                run.unmapped.append(Unmapped(table.name, code[:80], run.field, where))
                return unmapped
            if is_boolean:
                return mapped.code == "true"
            return mapped.code if is_code else _concept(mapped.system, mapped.code, mapped.display, path.property.type)

        return convert

    def _function(self, kind: str, spec: Spec, own: str, depth: int) -> Convert:
        function = FUNCTIONS[kind]
        systems = self.tables.get("coding-systems", Table("", "", {}))
        plus = [conditions.text_of(grammar.source(str(s)), own, depth) for s in spec.get("plus", ())]
        return function(depth, systems, plus)

    def datatype(self, name: str, depth: int) -> Convert:
        """The converter of a datatype map at a depth: an object, or a Reference where the map makes a resource."""
        if (name, depth) in self._made:
            return self._made[name, depth]
        if name in self._making:
            raise problem("invalid", f"datatype map {name} contains itself")
        self._making.add(name)
        spec = self.specs[name]
        self.ids -= {i for i in self.ids if i.startswith(f"{name}/")}  # the same rules, at another depth
        members = self.rules(
            name, spec["rules"], "", str(spec.get("v2", name.partition(".")[0])), str(spec["type"]), depth
        )
        self._making.discard(name)
        made = str(spec["type"])
        if made in self.definitions.resource_types:
            display = conditions.compile_format(str(spec.get("display", "{^.1}")), "", depth)
            convert = _reference(made, members, display, depth, name)
        else:
            convert = _complex(members, depth)
        self._made[name, depth] = convert
        return convert


def _where_begun(rule: Rule) -> Rule:
    def begun(run: Run, segment: Segment, raw: str, parts: Sequence[str], out: dict[str, Any]) -> None:
        if out and (len(out) > 1 or "resourceType" not in out):
            rule(run, segment, raw, parts, out)

    return begun


def _guarded(check: conditions.Check, rule: Rule) -> Rule:
    def guarded(run: Run, segment: Segment, raw: str, parts: Sequence[str], out: dict[str, Any]) -> None:
        if check(run, segment, raw, parts):
            rule(run, segment, raw, parts, out)

    return guarded


def _filled(convert: Convert, literal: Spec) -> Convert:
    """What the sender left out of an object, taken from the rule: the home telephone is for use at home."""

    def filled(run: Run, segment: Segment, text: str) -> Any:
        value = convert(run, segment, text)
        if value is not None:
            for name, member in literal.items():
                value.setdefault(name, copy.deepcopy(member))
        return value

    return filled


def _defaulting(element: str, rule: Rule) -> Rule:
    """What this rule writes serves a resource that is new; it says nothing about one that is stored already."""

    def defaulting(run: Run, segment: Segment, raw: str, parts: Sequence[str], out: dict[str, Any]) -> None:
        if element not in out:
            rule(run, segment, raw, parts, out)
            run.entry.defaulted.add(element)

    return defaulting


def _literal(value: Any, write: Any, where: str, own: str) -> Rule:
    plain = not isinstance(value, (dict, list))

    def literal(run: Run, segment: Segment, raw: str, parts: Sequence[str], out: dict[str, Any]) -> None:
        write(run, segment, out, value if plain else copy.deepcopy(value), "")

    return literal


def _link(name: str, write: Any, path: Target) -> Rule:
    if path.property.type != "Reference":
        raise problem("invalid", f"`{path.text}` is a {path.property.type}; a link needs a Reference")

    def link(run: Run, segment: Segment, raw: str, parts: Sequence[str], out: dict[str, Any]) -> None:
        entry = named(run, name)
        if entry is not None:
            write(run, segment, out, reference_to(entry), "")

    return link


def named(run: Run, name: str) -> Entry | None:
    """The resource made under a name: in this group, one around it, or shared by the whole message."""
    group: Any = run.group
    while group is not None:
        if name in group.scope:
            found: Entry = group.scope[name]
            return found
        group = group.parent
    return run.shared.get(name)


def reference_to(entry: Entry, display: str = "") -> dict[str, Any]:
    """A Reference to an entry; its fullUrl is filled in when the Bundle is put together."""
    reference: dict[str, Any] = {"reference": ""}
    if display:
        reference["display"] = display
    entry.references.append(reference)
    return reference


def _fields(src: grammar.Source, own: str, depth: int, convert: Convert, write: Any, path: Target) -> Rule:
    """Reads a field (its repetitions where the target repeats), converts and writes; notes an explicit null."""
    read, many = conditions.field_of(src, own), path.many and src.segment != "^"
    whole = not src.component
    top = bool(own) and src.field > 0 and depth == 0
    text, start, element = str(src), depth if src.segment == "^" else 0, path.element

    def rule(run: Run, segment: Segment, raw: str, parts: Sequence[str], out: dict[str, Any]) -> None:
        found = read(run, segment, raw, parts)
        if not found:
            return
        if found == NULL:
            if top:
                run.entry.deletes.append(element)
            return
        if top:
            run.field = text
        pieces = found.split(run.repetition) if src.field and run.repetition and run.repetition in found else [found]
        for piece in pieces if many else pieces[:1]:
            part = piece if whole else conditions.component_of(run, piece, src, start)
            value = convert(run, segment, part) if part and part != NULL else None
            if value is not None:
                write(run, segment, out, value, text)

    if src.segment == "^" and src.component and not src.subcomponent:
        return _component(src.component - 1, convert, write, text)
    return rule


def _component(number: int, convert: Convert, write: Any, text: str) -> Rule:
    def component(run: Run, segment: Segment, raw: str, parts: Sequence[str], out: dict[str, Any]) -> None:
        if number < len(parts):
            part = parts[number]
            if part and part != NULL:
                value = convert(run, segment, part)
                if value is not None:
                    write(run, segment, out, value, text)

    return component


def _complex(members: list[Rule], depth: int) -> Convert:
    def convert(run: Run, segment: Segment, text: str) -> Any:
        item: dict[str, Any] = {}
        parts = values.parts_of(run, text, depth)
        for member in members:
            member(run, segment, text, parts, item)
        return item or None

    if not members:
        return lambda run, segment, text: None
    return _quiet(convert)


def _reference(made: str, members: list[Rule], display: conditions.Read, depth: int, name: str) -> Convert:
    def convert(run: Run, segment: Segment, text: str) -> Any:
        resource: dict[str, Any] = {"resourceType": made}
        parts = values.parts_of(run, text, depth)
        for member in members:
            member(run, segment, text, parts, resource)
        shown = display(run, segment, text, parts)
        entry = run.known(made, resource) if len(resource) > 1 else None
        if entry is not None:
            if run.trace:
                entry.traces.append(("", _place(segment, run.field), name))
            return reference_to(entry, shown)
        return {"type": made, "display": shown} if shown else None

    return _quiet(convert)


def _quiet(convert: Convert) -> Convert:
    """Rules inside a datatype are counted as used, but the trace names the field's own rule."""

    def quiet(run: Run, segment: Segment, text: str) -> Any:
        if not run.trace:
            return convert(run, segment, text)
        kept = len(run.entry.traces)
        value = convert(run, segment, text)
        del run.entry.traces[kept:]
        return value

    return quiet


def _fill(
    run: Run, path: str, members: list[Rule], segment: Segment, raw: str, parts: Sequence[str], item: dict[str, Any]
) -> None:
    outer = run.prefix
    run.prefix = f"{outer}{path}."
    for member in members:
        member(run, segment, raw, parts, item)
    run.prefix = outer


def _with_codes(where: str, convert: Convert, table: Table | None, system: str, depth: int, type: str) -> Convert:
    """A coded value with the table's own coding put first; the code system of the field for codes that name none."""
    source = system or (table.source if table else "")

    def coded(run: Run, segment: Segment, text: str) -> Any:
        value = convert(run, segment, text)
        code = values.leaf(run, values.parts_of(run, text, depth)[0], depth + 1)
        if value is None or not code:
            return value
        codings = [value] if type == "Coding" else value.setdefault("coding", [])
        for coding in codings:
            if coding.get("code") == code and source:
                coding.setdefault("system", source)
        mapped = table.translate(code) if table else None
        if mapped is not None:
            return _enriched(value, codings, _coding(mapped.system, mapped.code, mapped.display), type)
        if table is not None:
            run.unmapped.append(Unmapped(table.name, code[:80], run.field, where))
        return value

    return coded


def _enriched(
    value: dict[str, Any], codings: list[dict[str, Any]], mapped: dict[str, Any], type: str
) -> dict[str, Any]:
    for coding in codings:
        if coding.get("system") == mapped.get("system") and coding.get("code") == mapped["code"]:
            if "display" in mapped:
                coding.setdefault("display", mapped["display"])
            return value
    if type == "Coding":
        return mapped
    codings.insert(0, mapped)
    return value


def _coding(system: str, code: str, display: str) -> dict[str, Any]:
    made = {"system": system, "code": code, "display": display}
    return {name: text for name, text in made.items() if text}


def _concept(system: str, code: str, display: str, type: str) -> dict[str, Any]:
    coding = _coding(system, code, display)
    return coding if type == "Coding" else {"coding": [coding]}


def _place(segment: Segment, source: str) -> str:
    """`PID[1]-3`: the field of a source in its occurrence of the segment."""
    same = segment.message.all(segment.name)
    occurrence = same.index(segment) + 1
    if source.startswith(f"{segment.name}-"):
        return f"{segment.name}[{occurrence}]{source[len(segment.name) :]}"
    return source or f"{segment.name}[{occurrence}]"
