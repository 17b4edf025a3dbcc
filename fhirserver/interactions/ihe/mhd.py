"""What a transaction must hold that publishes documents: IHE MHD, ITI-65 (Provide Document Bundle).

A Bundle that claims one of the profile's own profiles in its meta is held to it: one submission that lists what is
submitted, each document with its bytes in the Bundle, size and hash as they are, one patient. A document that replaces
another marks that one as superseded, in the same transaction.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from typing import Any

from fhirserver.fhir import Resource
from fhirserver.fhir.problem import Problem, problem

PREFIX = "https://profiles.ihe.net/ITI/MHD/StructureDefinition/IHE.MHD."
LIST_TYPES = "https://profiles.ihe.net/ITI/MHD/CodeSystem/MHDlistTypes"
SOURCE_ID = "https://profiles.ihe.net/ITI/MHD/StructureDefinition/ihe-sourceId"
DESIGNATION = "https://profiles.ihe.net/ITI/MHD/StructureDefinition/ihe-designationType"
TAKEN = ("List", "DocumentReference", "Binary", "Patient")

# What the comprehensive metadata have beside the minimal ones: of the submission, and of each document.
COMPREHENSIVE_LIST = ("identifier", "subject", "date")
COMPREHENSIVE_DOCUMENT = ("masterIdentifier", "subject", "type", "category", "securityLabel", "context")
COMPREHENSIVE_CONTEXT = ("facilityType", "practiceSetting", "sourcePatientInfo")


def provide(bundle: Resource) -> list[Resource]:
    """Entries to run beside those of a transaction; () for one that publishes no documents.

    Raises Problem: business-rule or required, naming the entry, for one that claims to and does not hold what it must.
    """
    claimed = _claimed(bundle)
    if not claimed:
        return []
    entries = _entries(bundle)
    submission = _submission(entries)
    documents = {url: entry for url, entry in entries.items() if _type(entry) == "DocumentReference"}
    items = [
        each["item"] for each in _objects(submission["resource"], "entry") if isinstance(each.get("item"), Mapping)
    ]
    listed = {str(item.get("reference", "")) for item in items}
    for url, entry in entries.items():
        if entry is not submission and _type(entry) in ("DocumentReference", "List") and url not in listed:
            raise _wrong(entry, "The submission does not list this: add it to List.entry.item.")
    for entry in documents.values():
        _check_document(entry, entries, comprehensive="Comprehensive" in claimed)
    _check_submission(submission, comprehensive="Comprehensive" in claimed)
    _one_patient(submission, documents)
    return [patch for entry in documents.values() for patch in _superseding(entry)]


def _claimed(bundle: Resource) -> str:
    """The profile of MHD that the Bundle claims, "" for none."""
    profiles = (bundle.get("meta") or {}).get("profile") if isinstance(bundle.get("meta"), Mapping) else None
    found = [each for each in profiles if isinstance(each, str)] if isinstance(profiles, list) else []
    return next((each.removeprefix(PREFIX) for each in found if each.startswith(PREFIX)), "")


def _entries(bundle: Resource) -> dict[str, Resource]:
    """The entries by their fullUrl, each with its place in the Bundle."""
    found: dict[str, Resource] = {}
    for index, entry in enumerate(bundle.get("entry") or ()):
        resource = entry.get("resource") if isinstance(entry, dict) else None
        if not isinstance(resource, dict):
            raise problem("required", f"Entry {index} has no resource.", f"Bundle.entry[{index}].resource")
        placed = {"index": index, "resource": resource, "request": entry.get("request")}
        if _type(placed) not in TAKEN:
            raise _wrong(placed, f"A submission has {', '.join(TAKEN)} in it, no {_type(placed)[:64]}.")
        url = entry.get("fullUrl")
        if not isinstance(url, str) or url in found:
            raise _wrong(placed, "Give each entry a fullUrl of its own, by which the others refer to it.")
        found[url] = placed
    return found


def _submission(entries: Mapping[str, Resource]) -> Resource:
    lists = [entry for entry in entries.values() if _type(entry) == "List" and _is(entry, "submissionset")]
    if len(lists) != 1:
        text = f"A submission has one List with the code {LIST_TYPES}|submissionset; there are {len(lists)}."
        raise problem("business-rule", text, "Bundle.entry", status=400)
    return lists[0]


def _is(entry: Resource, code: str) -> bool:
    concept = entry["resource"].get("code")
    codings = _objects(concept, "coding") if isinstance(concept, Mapping) else []
    pairs = [(each.get("system"), each.get("code")) for each in codings]
    return (LIST_TYPES, code) in pairs


def _check_submission(entry: Resource, *, comprehensive: bool) -> None:
    submission = entry["resource"]
    if (submission.get("status"), submission.get("mode")) != ("current", "working"):
        raise _wrong(entry, "The submission has the status current and the mode working.")
    urls = [each.get("url") for each in _objects(submission, "extension")]
    if SOURCE_ID not in urls:
        raise _wrong(entry, f"The submission needs the extension {SOURCE_ID}: who submits.")
    if comprehensive:
        _has(entry, COMPREHENSIVE_LIST)
        if DESIGNATION not in urls:
            raise _wrong(entry, f"A comprehensive submission needs the extension {DESIGNATION}: what it is.")


def _check_document(entry: Resource, entries: Mapping[str, Resource], *, comprehensive: bool) -> None:
    document = entry["resource"]
    if document.get("status") != "current":
        raise _wrong(entry, "A document that is submitted has the status current.")
    if comprehensive:
        _has(entry, COMPREHENSIVE_DOCUMENT)
        context = document["context"] if isinstance(document["context"], Mapping) else {}
        _has({**entry, "resource": {"resourceType": "DocumentReference.context", **context}}, COMPREHENSIVE_CONTEXT)
    attachments = [each.get("attachment") for each in _objects(document, "content")]
    if len(attachments) != 1 or not isinstance(attachments[0], Mapping):
        raise _wrong(entry, "A document has one content with its attachment.")
    _check_attachment(entry, attachments[0], entries.get(str(attachments[0].get("url", ""))))


def _check_attachment(entry: Resource, attachment: Mapping[str, Any], binary: Resource | None) -> None:
    """The bytes are in the Bundle, and are what the metadata say: media type, size, SHA-1."""
    if binary is None or _type(binary) != "Binary":
        raise _wrong(entry, "content.attachment.url is the fullUrl of a Binary in this Bundle.")
    resource = binary["resource"]
    if not attachment.get("contentType") or attachment["contentType"] != resource.get("contentType"):
        raise _wrong(entry, "content.attachment.contentType and the Binary's contentType are the same.")
    try:
        data = b64decode(str(resource.get("data", "")), validate=True)
    except ValueError:
        raise _wrong(binary, "The data of a Binary are base64.") from None
    if "size" in attachment and attachment["size"] != len(data):
        raise _wrong(entry, f"content.attachment.size is {attachment['size']}, the document has {len(data)} bytes.")
    digest = b64encode(hashlib.sha1(data, usedforsecurity=False).digest()).decode()
    if "hash" in attachment and attachment["hash"] != digest:
        raise _wrong(entry, "content.attachment.hash is not the SHA-1 of the document.")


def _one_patient(submission: Resource, documents: Mapping[str, Resource]) -> None:
    subjects = {_subject(entry) for entry in (submission, *documents.values())} - {""}
    if len(subjects) > 1:
        raise _wrong(submission, "The submission and its documents are about one patient.")


def _subject(entry: Resource) -> str:
    subject = entry["resource"].get("subject")
    if not isinstance(subject, Mapping):
        return ""
    identifier = subject.get("identifier")
    logical = f"{identifier.get('system')}|{identifier.get('value')}" if isinstance(identifier, Mapping) else ""
    return str(subject.get("reference") or logical)


def _superseding(entry: Resource) -> Iterator[Resource]:
    """The patches that mark what a document replaces."""
    for relation in _objects(entry["resource"], "relatesTo"):
        target = relation.get("target")
        if not isinstance(target, Mapping) or relation.get("code") not in ("replaces", "transforms-replaces"):
            continue
        reference = str(target.get("reference", ""))
        if not reference.startswith("DocumentReference/"):
            raise _wrong(entry, "What a document replaces is named as DocumentReference/[id].")
        yield {"request": {"method": "PATCH", "url": reference}, "resource": _SUPERSEDE}


_SUPERSEDE: Resource = {
    "resourceType": "Parameters",
    "parameter": [
        {
            "name": "operation",
            "part": [
                {"name": "type", "valueCode": "replace"},
                {"name": "path", "valueString": "DocumentReference.status"},
                {"name": "value", "valueCode": "superseded"},
            ],
        }
    ],
}


def _has(entry: Resource, names: tuple[str, ...]) -> None:
    missing = [name for name in names if not entry["resource"].get(name)]
    if missing:
        raise _wrong(entry, f"The comprehensive profile needs {', '.join(missing)}.", "required")


def _objects(resource: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """The objects in a list; what else is there is refused when the resource is validated."""
    held = resource.get(name)
    return [each for each in held if isinstance(each, Mapping)] if isinstance(held, list) else []


def _type(entry: Resource) -> str:
    return str(entry["resource"].get("resourceType", ""))


def _wrong(entry: Resource, text: str, code: str = "business-rule") -> Problem:
    where = f"Bundle.entry[{entry['index']}].resource"
    return problem(code, f"Entry {entry['index']}: {text}", where, status=400)
