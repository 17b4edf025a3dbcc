"""Rules compiled: one function per rule, made once when the maps are loaded, with every check that can be made then.

A rule writes one element: `from` names the v2 field (each repetition gives a value where the target repeats), `as` the
datatype map or primitive it is read as, `table` a code table, `value` a literal, `rules` the members of an object,
`link` a reference to a resource made under a name, `when` its condition.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.problem import Issue, Problem, problem
from fhirserver.hl7v2.mapping import actions, conditions, grammar, values
from fhirserver.hl7v2.mapping.actions import Members, Rule
from fhirserver.hl7v2.mapping.functions import FUNCTIONS, Convert
from fhirserver.hl7v2.mapping.paths import Target, compile_target
from fhirserver.hl7v2.mapping.run import Run, Unmapped
from fhirserver.hl7v2.mapping.structure import Structures
from fhirserver.hl7v2.mapping.tables import Table
from fhirserver.hl7v2.message import Segment

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
        "append",
        "absent",
        "lenient",
        "required",
    )
)
_FIELD = re.compile(r"[A-Z][A-Z0-9]{2}-\d")
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
    ) -> Members:
        """The rules of a map. `own` is its segment ("" in datatype maps), `here` the v2 datatype of `^`, `type` what
        they fill.

        With `nested` the constant rules come last and write only into an object that another rule has begun.
        """
        made: list[tuple[bool, int, Rule]] = []
        for spec in specs:
            where = f"{name}/{spec.get('id', '?')}"
            try:
                constant, rule = self._rule(where, spec, own, here, type, depth)
                made.append((constant, _needed(spec, own, nested), rule))
            except Problem as fault:
                for issue in fault.issues:
                    self.fault(where, issue.diagnostics)
        if not nested:
            return [(number, rule) for _, number, rule in made]
        last = [(number, actions.where_begun(rule)) for is_constant, number, rule in made if is_constant]
        return [(number, rule) for is_constant, number, rule in made if not is_constant] + last

    def _rule(self, where: str, spec: Spec, own: str, here: str, type: str, depth: int) -> tuple[bool, Rule]:
        self._known(where, spec)
        check = self.condition(spec, own, here, depth)
        path = compile_target(self.definitions, type, str(spec["to"]))
        element = grammar.target(str(spec["to"]))[0].name
        write = self._writer(where, path)
        if "link" in spec:
            rule, constant = actions.link(str(spec["link"]), write, path), False
        elif "from" in spec or "format" in spec:
            rule, constant = self._read(where, spec, own, here, path, write, depth), False
        elif "rules" in spec:
            rule, constant = self._object(where, spec, own, here, path, write, depth), False
        else:
            rule, constant = actions.literal(spec["value"], write, where, own), True
        if spec.get("default"):
            rule = actions.defaulting(element, rule)
        if spec.get("absent"):
            rule = actions.where_absent(element, rule)
        return constant, rule if check is None else actions.guarded(check, rule)

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

    def _writer(self, where: str, path: Target) -> actions.Write:
        """Puts a value where the path says; notes ends of periods, and who wrote what where a trace is wanted."""
        put, text, name = path.put, path.text.replace("+", ""), path.property.name
        single, is_list = path.direct and not path.property.is_list, path.property.is_list
        ends = text.split(".")[:-1] if name == "end" else None

        def write(run: Run, segment: Segment, out: dict[str, Any], value: Any, source: str) -> None:
            if single:
                out[name] = value
            else:
                put(out, value)
            if ends is not None:
                run.periods.append((out, ends))
            if run.trace:
                run.hits.add(where)
                index = f"[{len(out.get(text, ())) - 1}]" if is_list and text in out else ""
                run.entry.traces.append((f"{run.prefix}{text}{index}", actions.place(segment, source), where))

        return write

    def _read(
        self, where: str, spec: Spec, own: str, here: str, path: Target, write: actions.Write, depth: int
    ) -> Rule:
        if "format" in spec:
            for src in conditions.format_sources(str(spec["format"])):
                self.structures.check(src, here)
            return self._formatted(spec, own, path, write, depth)
        src = grammar.source(str(spec["from"]))
        datatype = self.structures.check(src, here)
        inner = conditions.depth_of(src, depth)
        if spec.get("as") == "lines":
            self._primitive("string", path)
            return actions.lines(src, own, write, path, bool(spec.get("append")))
        convert = self._convert(where, spec, own, datatype, path, inner)
        if "fill" in spec:
            convert = actions.filled(convert, self._members_of(path, spec["fill"]))
        if src.segment in (own, "^") or src.segment.startswith("$") or src.field:
            return actions.fields(src, own, depth, convert, write, path)
        raise problem("invalid", f"`{src}` cannot be read here")

    def _members_of(self, path: Target, literal: Spec) -> Spec:
        for name in literal:
            compile_target(self.definitions, path.property.type, str(name))
        return literal

    def _formatted(self, spec: Spec, own: str, path: Target, write: actions.Write, depth: int) -> Rule:
        text, formatted = str(spec["format"]), conditions.compile_format(str(spec["format"]), own, depth)
        primitive = values.PRIMITIVES[self._primitive(str(spec.get("as", path.property.type)), path)]

        def rule(run: Run, segment: Segment, raw: str, parts: Sequence[str], out: dict[str, Any]) -> None:
            value = primitive(run, formatted(run, segment, raw, parts))
            if value is not None:
                write(run, segment, out, value, text)

        return rule

    def _object(
        self, where: str, spec: Spec, own: str, here: str, path: Target, write: actions.Write, depth: int
    ) -> Rule:
        members = self.rules(where, spec["rules"], own, here, path.property.type, depth)

        def rule(run: Run, segment: Segment, raw: str, parts: Sequence[str], out: dict[str, Any]) -> None:
            item: dict[str, Any] = {}
            actions.fill(run, path.text, members, segment, raw, parts, item)
            if item:
                write(run, segment, out, item, "")

        return rule

    def _convert(self, where: str, spec: Spec, own: str, datatype: str, path: Target, depth: int) -> Convert:
        if "value" in spec:
            literal = spec["value"]
            return lambda run, segment, text: actions.copied(literal) if values.leaf(run, text, depth) else None
        if "rules" in spec:
            return self._members(where, spec, own, datatype, path, depth)
        kind = str(spec.get("as", path.property.type))
        if kind in FUNCTIONS:
            return self._function(kind, spec, own, depth)
        if kind in self.specs:
            return self._mapped(where, spec, kind, path, depth)
        if "table" in spec:
            return self._coded(where, spec, path, depth)
        kind = self._primitive(kind, path)
        if kind in ("string", "markdown"):
            return actions.text_at(depth)
        primitive = values.PRIMITIVES[kind]
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
            actions.fill(run, path.text, members, segment, text, values.parts_of(run, text, depth), item)
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
        if table is None and not system:
            return convert
        return actions.with_codes(where, convert, table, system, depth, wanted, bool(spec.get("required")))

    def _coded(self, where: str, spec: Spec, path: Target, depth: int) -> Convert:
        table, unmapped, lenient = self.tables[str(spec["table"])], spec.get("unmapped"), bool(spec.get("lenient"))
        needed = bool(spec.get("required"))
        self._bound(table, path)
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
                if not lenient:
                    run.unmapped.append(Unmapped(table.name, code[:80], run.field, where, needed))
                return unmapped
            if is_boolean:
                return mapped.code == "true"
            if is_code:
                return mapped.code
            coding = actions.one_coding(mapped.system, mapped.code, mapped.display)
            return coding if path.property.type == "Coding" else {"coding": [coding]}

        return convert

    def _bound(self, table: Table, path: Target) -> None:
        """Notes a fault for each code that a table gives and the element, whose codes are FHIR's, does not take."""
        binding = path.property.binding
        known = self.definitions.codes(binding.value_set) if binding and binding.strength == "required" else None
        if known is None or path.property.type != "code":
            return
        allowed = frozenset[str]().union(*known.values())
        given = {**table.codes, **({"*": table.fallback} if table.fallback else {})}
        for code, target in given.items():
            issue = Issue(
                "code-invalid",
                f"{table.name}/{code}: `{path.text}` does not take the code {target.code[:40]}",
                (f"{table.name}/{code}",),
            )
            if target.code not in allowed and issue not in self.issues:
                self.issues.append(issue)

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
            convert = actions.reference(made, members, display, depth, name, remembered=self._is_pure(name))
        else:
            convert = actions.complex(members, depth)
            if spec.get("remember") and self._is_pure(name):
                convert = actions.remembering(convert)
        self._made[name, depth] = convert
        return convert

    def _is_pure(self, name: str) -> bool:
        """Whether a datatype map reads nothing but its own text, so that the same text always gives the same."""
        for rule in _inside(self.specs[name]["rules"]):
            texts = " ".join(str(rule.get(key, "")) for key in ("from", "when", "format", "plus"))
            nested = str(rule.get("as", ""))
            if _FIELD.search(texts) or "$" in texts or nested in self.specs or "link" in rule:
                return False
        return True


def _inside(rules: Sequence[Spec]) -> list[Spec]:
    """Every rule of a list, those inside rules included."""
    return [found for rule in rules for found in (rule, *_inside(rule.get("rules", ())))]


def _needed(spec: Spec, own: str, nested: bool) -> int:
    """The field or component without which a rule does nothing, 0 for none."""
    if "from" not in spec:
        return 0
    src = grammar.source(str(spec["from"]))
    if src.segment == "^":
        return src.component
    return src.field if src.segment == own and not nested else 0
