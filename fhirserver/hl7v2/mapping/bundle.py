"""A message to a FHIR message Bundle, and what a store needs to know to write it.

FHIR R4: messaging, bundle#message; HL7 v2-to-FHIR implementation guide. Pure: the same message, context and maps give
the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fhirserver.fhir import Resource
from fhirserver.fhir.problem import problem
from fhirserver.hl7v2.mapping.actions import copied, reference_to
from fhirserver.hl7v2.mapping.maps import Maps, MessageMap, Trigger
from fhirserver.hl7v2.mapping.run import Context, Entry, Run, Traced, Unmapped, uuid_of
from fhirserver.hl7v2.mapping.times import backwards
from fhirserver.hl7v2.message import Message

ENVELOPE = ("MessageHeader", "Provenance")


@dataclass(frozen=True, slots=True)
class Result:
    """What a message became.

    bundle: the message Bundle; its first entry is the MessageHeader, every reference inside resolves by fullUrl.
    event: `ADT_A01`. aliases: event names that the trigger itself means (`merge.patient`); whether a patient was
    created or updated only the store knows.
    match: fullUrl -> the identifiers (system and value) by which a stored resource is the same one, strongest first;
    None for a resource that is always new.
    elements: fullUrl -> the elements that this message speaks for: only these may replace stored ones. Of an element
    with parts of its own the parts are named: `period.end`, `hospitalization.admitSource`.
    deletes: fullUrl -> elements (dotted, or with a selector such as `extension(url)`) that the message says are gone.
    effects: what a store must do beyond writing, as (effect, fullUrl, other fullUrl): ("merge", prior, survivor).
    trace: what wrote what, empty unless asked for; rules: the ids of all rules that wrote, unless not asked for.
    unmapped: codes that tables lack. skipped: names of segments that no rule reads. warnings: what the sender should
    mend. maps: what it was mapped by.
    """

    bundle: Resource
    event: str
    structure: str
    aliases: tuple[str, ...]
    match: Mapping[str, Sequence[Mapping[str, str]] | None]
    elements: Mapping[str, Sequence[str]]
    deletes: Mapping[str, Sequence[str]]
    effects: Sequence[tuple[str, str, str]]
    trace: Sequence[Traced]
    rules: frozenset[str]
    unmapped: Sequence[Unmapped]
    skipped: Sequence[str]
    warnings: Sequence[str]
    maps: Maps


def to_bundle(maps: Maps, message: Message, context: Context, *, trace: bool = False) -> Result:
    """The message Bundle of a message.

    Raises Problem(not-supported) for an event that no map takes, Problem(required) where a segment is missing without
    which there is nothing to say.
    """
    trigger, chosen = _map_of(maps, message)
    for name in chosen.requires:
        if message.first(name) is None:
            raise problem("required", f"The {name} segment is missing.", name)
    run = Run(message, context, _variables(trigger, message, context), trace)
    placed = maps.structures.place(message, chosen.structure)
    skipped = chosen.apply(run, placed)
    if "PID" in chosen.requires and not any(entry.type == "Patient" for entry in run.entries):
        raise problem("required", "The PID segment says nothing about a patient.", "PID")
    _finish(maps, run)
    entries = _ordered(run.entries)
    if not any(entry.type not in ENVELOPE and not entry.coalesced for entry in entries):
        raise problem("required", f"The message has no segment that {message.event} is about.", "MSH-9")
    _refer(chosen, entries, maps.policies(context.namespace))
    bundle = _bundle(maps, run, entries)
    return Result(
        bundle=bundle,
        event=message.event,
        structure=chosen.structure,
        aliases=trigger.aliases,
        match={entry.full_url: entry.match or None for entry in entries},
        elements={entry.full_url: _spoken(maps, entry) for entry in entries},
        deletes={entry.full_url: gone for entry in entries if (gone := _deleted(maps, entry))},
        effects=[(effect, one.full_url, other.full_url) for effect, one, other in run.effects if other],
        trace=_traced(entries) if trace else (),
        rules=frozenset(run.hits),
        unmapped=run.unmapped,
        skipped=sorted(set(skipped)),
        warnings=[*message.warnings, *dict.fromkeys(run.warnings)],
        maps=maps,
    )


def _map_of(maps: Maps, message: Message) -> tuple[Trigger, MessageMap]:
    trigger = maps.trigger(message)
    chosen = maps.messages.get(trigger.structure) if trigger else None
    if trigger is None or chosen is None:
        known = any(event.startswith(f"{message.code}_") for event in maps.triggers)
        place = "MSH-9.2" if known else "MSH-9.1"
        raise problem("not-supported", f"Messages of type {message.event[:20]} are not mapped.", place)
    return trigger, chosen


def _variables(trigger: Trigger, message: Message, context: Context) -> Mapping[str, str]:
    return {
        "$trigger": message.trigger,
        "$code": message.code,
        "$structure": trigger.structure,
        "$version": message.version,
        "$control": message["MSH-10"],
        "$received": context.received.strftime("%Y%m%d%H%M%S%z"),
        "$message": context.message,
        "$software": context.software,
        **trigger.variables,
    }


def _finish(maps: Maps, run: Run) -> None:
    """Defaults, derived identifiers, matching and fullUrls of every entry; then the references between them."""
    seen: dict[str, int] = {}
    _order(run)
    for entry in sorted(run.entries, key=lambda e: e.type != "Patient"):
        _settle(maps, entry)
        _whole(run, entry.resource)
        _once(entry.resource)
        _default(maps, entry)
        _identify(maps, run, entry, seen)
    for entry in run.entries:
        for reference in entry.references:
            reference["reference"] = entry.full_url


def _settle(maps: Maps, entry: Entry) -> None:
    """One form of each choice element: the one written last."""
    resource, choices = entry.resource, maps.choices.get(entry.type, {})
    written = choices.keys() & resource.keys()
    for name in [name for name in resource if name in written] if len(written) > 1 else ():
        if any(
            other in resource and list(resource).index(other) > list(resource).index(name) for other in choices[name]
        ):
            del resource[name]


def _whole(run: Run, resource: Resource) -> None:
    """Takes out a ratio with one side (rat-1) and a range that runs backwards (rng-2), which FHIR refuses."""
    ratio, extent = resource.get("valueRatio"), resource.get("valueRange")
    if ratio is not None and not all("value" in ratio.get(side, {}) for side in ("numerator", "denominator")):
        del resource["valueRatio"]
        run.warn("a ratio has one side only and was left out")
    if extent is not None:
        low, high = (extent.get(side, {}).get("value") for side in ("low", "high"))
        if low is not None and high is not None and low > high:
            del resource["valueRange"]
            run.warn("a range runs backwards and was left out")


def _once(resource: Resource) -> None:
    """Each number once: one that is said to be old and said to be in use is in use."""
    identifiers = resource.get("identifier")
    if not isinstance(identifiers, list) or len(identifiers) < 2:
        return
    said = [(each.get("system"), each.get("value")) for each in identifiers]
    if len(set(said)) < len(said):
        current = {key for key, each in zip(said, identifiers, strict=True) if each.get("use") != "old"}
        kept: dict[Any, Any] = {}
        for key, each in zip(said, identifiers, strict=True):
            if each.get("use") != "old" or key not in current:
                kept.setdefault(key, each)
        resource["identifier"] = list(kept.values())


def _order(run: Run) -> None:
    """Takes the end from every period that ends before it begins, which FHIR refuses (per-1)."""
    for node, steps in run.periods:
        for step in steps:
            node = node.get(step, {})
        if "start" in node and "end" in node and backwards(node["start"], node["end"]):
            del node["end"]
            run.warn("a period ended before it began; its end was left out")


def _default(maps: Maps, entry: Entry) -> None:
    resource = entry.resource
    for name, value in maps.defaults.get(entry.type, {}).items():
        if name not in resource and f"_{name}" not in resource and name.lstrip("_") not in resource:
            siblings = maps.choices.get(entry.type, {}).get(name, ())
            if not any(sibling in resource for sibling in siblings):
                resource[name] = copied(value)
                entry.defaulted.add(name)


def _identify(maps: Maps, run: Run, entry: Entry, seen: dict[str, int]) -> None:
    context = run.context
    entry.match = _matching(maps.matching.get(entry.type, {}), entry.resource)
    if entry.type not in ENVELOPE and (entry.identity or (entry.key and not entry.match)):
        _derive(run, entry, seen, entry.identity or entry.key)
    if entry.match:
        strongest = entry.match[0]
        seed = f"{context.organization}|{entry.type}|{strongest.get('system', '')}|{strongest['value']}"
        if entry.type == "Patient" and all(each.get("use") == "old" for each in entry.resource.get("identifier", ())):
            seed += "|old"  # the number may be that of another patient of the message, by now
    else:
        message = context.message or run.variables["$control"]
        seed = f"{context.organization}|{message}|{entry.type}|{entry.number}"
    count = seen[seed] = seen.get(seed, 0) + 1
    if count > 1:
        _derive(run, entry, seen, f"{seed}|{count}")
        seed = f"{seed}|{count}"
    entry.full_url = uuid_of(seed)


def _derive(run: Run, entry: Entry, seen: dict[str, int], key: str) -> None:
    """An identifier made from what the segment says, for what senders repeat without numbering it (allergies,
    coverages).
    """
    subject = entry.subject.full_url if entry.subject else run.context.organization
    text = f"{entry.type}|{subject}|{key}"
    count = seen[text] = seen.get(text, 0) + 1
    digest = hashlib.sha256(f"{text}|{count}".encode()).hexdigest()[:32]
    identifier = {"use": "secondary", "system": f"{run.context.namespace}derived", "value": digest}
    entry.match = [{"system": identifier["system"], "value": digest}]
    entry.resource.setdefault("identifier", []).append(identifier)


def _matching(rule: Mapping[str, Any], resource: Resource) -> list[dict[str, str]]:
    """The identifiers that may match, strongest first: preferred types in their order, then the rest but for the
    excluded.
    """
    found: list[tuple[tuple[bool, int], dict[str, str]]] = []
    prefer, never = rule.get("prefer", ()), rule.get("never", ())
    identifiers = resource.get("identifier") or []
    for identifier in identifiers if isinstance(identifiers, list) else [identifiers]:
        value, system = identifier.get("value"), identifier.get("system")
        kind = next((c.get("code", "") for c in identifier.get("type", {}).get("coding", ())), "")
        if value and system and kind not in never:
            old = identifier.get("use") == "old"
            rank = (old, prefer.index(kind) if kind in prefer else len(prefer))
            found.append((rank, {"system": system, "value": value}))
    return [identifier for _, identifier in sorted(found, key=lambda pair: pair[0])]


def _ordered(entries: Iterable[Entry]) -> list[Entry]:
    place = {"MessageHeader": 0, "Provenance": 3}
    return sorted(entries, key=lambda e: 2 if e.coalesced else place.get(e.type, 1))


def _refer(chosen: MessageMap, entries: Sequence[Entry], policies: Sequence[str]) -> None:
    """MessageHeader.focus, Provenance.target and Provenance.policy: what the message is about, everything it wrote,
    and the rules that wrote it, with their versions.
    """
    for entry in entries:
        if entry.type == "MessageHeader":
            focus = [
                _resolved(other)
                for kind in chosen.focus
                for other in entries
                if other.type == kind and not other.coalesced
            ]
            if focus:
                entry.resource["focus"] = focus
        elif entry.type == "Provenance":
            targets = [other for other in entries if other.type not in ENVELOPE and not other.coalesced]
            entry.resource["target"] = [_resolved(other) for other in targets]
            entry.resource["policy"] = list(policies)


def _resolved(entry: Entry) -> dict[str, Any]:
    reference = reference_to(entry)
    reference["reference"] = entry.full_url
    return reference


def _bundle(maps: Maps, run: Run, entries: Sequence[Entry]) -> Resource:
    bundle: Resource = {"resourceType": "Bundle", "type": "message"}
    run.entry = Entry("Bundle", bundle, 0)
    header = run.message.segments[0]
    if maps.bundle:
        maps.bundle.apply(run, header, bundle)
    bundle.setdefault("timestamp", run.context.received.isoformat(timespec="seconds"))
    bundle["entry"] = [{"fullUrl": entry.full_url, "resource": entry.resource} for entry in entries]
    return bundle


def _spoken(maps: Maps, entry: Entry) -> list[str]:
    """The elements that the message speaks for; of one with parts of its own, such as a period, the parts."""
    parts = maps.parts.get(entry.type, ())
    spoken: list[str] = []
    for name, value in entry.resource.items():
        if name in parts and isinstance(value, dict):
            spoken += [f"{name}.{part}" for part in value]
        elif name != "resourceType" and name not in entry.defaulted:
            spoken.append(name)
    return spoken


def _deleted(maps: Maps, entry: Entry) -> list[str]:
    """What the message says is gone: explicit nulls, and the other forms of a choice element that it fills."""
    choices = maps.choices.get(entry.type, {}) if entry.type not in ENVELOPE else {}
    gone = [element for element in entry.deletes if element not in entry.resource]
    for name in choices.keys() & entry.resource.keys() - entry.defaulted:
        gone += choices[name]
    if entry.type == "Observation":
        gone += _other_results(entry.resource, choices)
    for name, type in maps.parts.get(entry.type, {}).items():
        said, inner = entry.resource.get(name), maps.choices.get(type)
        if inner and isinstance(said, dict):
            gone += [f"{name}.{other}" for member in said.keys() & inner.keys() for other in inner[member]]
    return sorted(set(gone))


def _other_results(observation: Resource, choices: Mapping[str, Sequence[str]]) -> list[str]:
    """What a result takes the place of: several values stand in components, one in value[x], none has a reason (obs-6,
    obs-7).
    """
    values = [name for name in choices if name.startswith("value")]
    told = "component" in observation or any(name in observation for name in values)
    others = (*values, "component", "dataAbsentReason") if told else ()
    return [name for name in others if name not in observation]


def _traced(entries: Sequence[Entry]) -> list[Traced]:
    return [
        Traced(entry.full_url, f"{entry.type}.{element}" if element else entry.type, field, rule)
        for entry in entries
        for element, field, rule in entry.traces
    ]
