"""A search that says which IHE profile it follows: `_profile=https://profiles.ihe.net/ITI/PDQm`. IHE PDQm, ITI-78.

Such a value names a profile as a whole, which no resource claims, so it narrows nothing. Of PDQm it means that domains
in `identifier` say whose identifiers are wanted in the answer: without the signal they are criteria as FHIR has them,
and whoever means to write a resource back gets it whole.
"""

from __future__ import annotations

import re
from dataclasses import replace
from urllib.parse import urlencode

from fhirserver.auth.access import Access
from fhirserver.fhir import Resource
from fhirserver.fhir.problem import problem
from fhirserver.interactions import search
from fhirserver.interactions.ihe.pix import has_domain
from fhirserver.interactions.model import Request, Response, Server

ROOT = "https://profiles.ihe.net/"
PDQM = f"{ROOT}ITI/PDQm"
MOST_DOMAINS = 20
_COMMA = re.compile(r"(?<!\\),")
_ESCAPED = re.compile(r"\\(.)")
SUBSETTED: Resource = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}


def search_type(server: Server, request: Request, access: Access) -> Response:
    """The search of a type, as the profile that it names wants it answered.

    Raises Problem(not-found) for a domain of identifiers that nobody here has, where PDQm is asked.
    """
    said = [value for name, value in request.query if name == "_profile" and _is_signal(value)]
    if not said:
        return search.search_type(server, request, access)
    query = tuple(pair for pair in request.query if pair[0] != "_profile" or not _is_signal(pair[1]))
    asked = replace(request, query=query)
    domains = _domains(asked) if PDQM in said and request.type == "Patient" else []
    for domain in domains:
        if not has_domain(server, asked, access, domain):
            raise problem("not-found", "targetSystem not found", "identifier")
    response = search.search_type(server, asked, access)
    return _answered(response, set(domains)) if domains else response


def _is_signal(value: str) -> bool:
    return value.startswith(ROOT) and "/StructureDefinition/" not in value


def _domains(request: Request) -> list[str]:
    """The domains of the `identifier` parameters that have domains only: `urn:oid:1.2|,urn:oid:3.4|`."""
    found: list[str] = []
    for name, text in request.query:
        tokens = _COMMA.split(text)
        if name == "identifier" and all(len(token) > 1 and token.endswith("|") for token in tokens):
            found += [_ESCAPED.sub(r"\1", token[:-1]) for token in tokens]
    if len(found) > MOST_DOMAINS:
        raise problem("too-costly", f"Name at most {MOST_DOMAINS} domains.", "identifier")
    return list(dict.fromkeys(found))


def _answered(response: Response, domains: set[str]) -> Response:
    """The searchset with the identifiers of these domains alone, and the signal in its links."""
    bundle = response.content() or {}
    for entry in bundle.get("entry", ()):
        resource = entry["resource"]
        held = resource.get("identifier", ())
        kept = [each for each in held if each.get("system") in domains]
        if resource["resourceType"] != "Patient" or len(kept) == len(held):
            continue
        resource["identifier"] = kept
        if not kept:
            del resource["identifier"]
        meta = resource.get("meta", {})
        resource["meta"] = {**meta, "tag": [*meta.get("tag", ()), SUBSETTED]}
    for link in bundle.get("link", ()):
        link["url"] += ("&" if "?" in link["url"] else "?") + urlencode({"_profile": PDQM})
    return replace(response, text=None, resource=bundle)
