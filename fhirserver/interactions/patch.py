"""The patch interaction: JSON Patch (RFC 6902), JSON Merge Patch (RFC 7396) and FHIRPath Patch. FHIR R4: http#patch,
fhirpatch.
"""

from __future__ import annotations

from typing import Any

from jsonpatch import JsonPatch, JsonPatchException
from jsonpointer import JsonPointerException, resolve_pointer

from fhirserver.auth.access import Access
from fhirserver.fhir import Resource
from fhirserver.fhir.json import encode
from fhirserver.fhir.patch import apply as fhirpath_patch
from fhirserver.fhir.problem import problem
from fhirserver.interactions.model import Request, Response, Server
from fhirserver.interactions.read import current
from fhirserver.interactions.write import answer, may_change, persist, require_match, store

MOST_STEPS = 1_000
MOST_COPIED = 4 * 1024 * 1024
"""Characters of JSON that all `copy` steps of a patch may copy together."""


def patch(server: Server, request: Request, access: Access) -> Response:
    """Applies the patch to the current version and stores the result, validated like any update.

    Raises Problem: not-found, deleted, invalid (a patch that is malformed), processing (one that does not apply).
    """
    assert request.type
    assert request.id

    def attempt() -> Response:
        previous = current(server, access, request.type or "", request.id or "", request)
        if not may_change(server, access, previous, "u"):
            raise problem("forbidden", f"Your scopes do not permit to write {request.type}/{request.id}.")
        require_match(request, previous)
        after = _applied(server, previous.resource(), request.body)
        if not isinstance(after, dict) or (after.get("resourceType"), after.get("id")) != (previous.type, previous.id):
            raise problem("processing", "A patch may not change resourceType or id.")
        written = store(server, request, access, after, previous, previous.id, "PATCH")
        return answer(server, request, written, 200)

    return persist(request, attempt)


def _applied(server: Server, resource: Resource, steps: Any) -> Any:
    if isinstance(steps, dict) and steps.get("resourceType") == "Parameters":
        return fhirpath_patch(server.definitions, resource, steps)
    if isinstance(steps, dict):
        return _merged(resource, steps)
    if not isinstance(steps, list):
        raise problem(
            "invalid",
            "A patch is a JSON Patch array, a Parameters resource of FHIRPath Patch operations, or a JSON Merge Patch.",
        )
    if len(steps) > MOST_STEPS:
        raise problem("too-long", f"A patch may have at most {MOST_STEPS} steps.")
    try:
        return _json_patched(resource, steps)
    except (JsonPatchException, JsonPointerException) as error:
        raise problem("processing", f"The patch does not apply: {str(error)[:300]}") from None
    except RecursionError:
        raise problem("structure", "The patch nests the resource too deeply.") from None
    except (TypeError, KeyError, IndexError, AttributeError, ValueError):
        raise problem("invalid", "The patch is malformed: see RFC 6902 for its form.") from None


def _merged(held: Any, said: Any) -> Any:
    """RFC 7396: objects are merged, null removes, everything else replaces."""
    if not isinstance(said, dict):
        return said
    merged = dict(held) if isinstance(held, dict) else {}
    for name, value in said.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged


def _json_patched(resource: Any, steps: list[Any]) -> Any:
    """Applies step by step. A few dozen `copy` steps can double a resource beyond any memory, and a thousand keep the
    server busy with a large one: what each is about to copy is counted first, and nothing else but it is looked at.
    """
    copied = 0
    for step in steps:
        if isinstance(step, dict) and step.get("op") == "copy":
            copied += len(encode(resolve_pointer(resource, step["from"])))
            if copied > MOST_COPIED:
                raise problem("too-long", f"The copy steps of a patch may copy {MOST_COPIED} bytes altogether.")
        resource = JsonPatch([step]).apply(resource, in_place=True)
    return resource
