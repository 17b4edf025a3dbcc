"""$load-package: a FHIR package onto the registry, for platform operators. FHIR packages specification.

The same as `fhirserver package load` does beside the server, within the bounds of a request.
"""

from __future__ import annotations

import base64
import binascii
from io import BytesIO
from typing import Any

from fhirserver.fhir import package
from fhirserver.fhir.problem import problem
from fhirserver.interactions import packages
from fhirserver.interactions.model import Request, Server
from fhirserver.interactions.operations import parameters

MOST_UNPACKED = 256 * 1024 * 1024
"""Bytes of all files of a package; what is sent is bounded as every body is."""
MOST_REFUSED = 200
"""Refusals that are told one by one."""
_WHERE = "Parameters.parameter.where(name='content')"


def load_package(server: Server, request: Request) -> list[dict[str, Any]]:
    """Stores the definitions and terminology of a package (.tgz, as base64); what became of them, as parameters.

    Raises Problem: required or value for what is no base64, invalid for what is no package, too-long for a larger one.
    What was stored before a fault was met stays.
    """
    archive = BytesIO(_content(parameters(request, "content").get("content")))
    done = packages.load(server, request, package.resources(archive, most_total=MOST_UNPACKED))
    counts = {"stored": done.stored, "there": done.there, "others": done.others, "refused": len(done.refused)}
    parts: list[dict[str, Any]] = [{"name": name, "valueInteger": count} for name, count in counts.items()]
    return parts + [{"name": "reason", "valueString": text[:1000]} for text in done.refused[:MOST_REFUSED]]


def _content(value: Any) -> bytes:
    if not value:
        raise problem("required", "Give the package, a .tgz, as base64 in the parameter content.", _WHERE)
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise problem("value", "content must be one base64Binary: the package, a .tgz.", _WHERE) from None
