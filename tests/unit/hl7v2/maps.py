"""The shipped maps and a context for tests, loaded once."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.json import decode, encode
from fhirserver.hl7v2.mapping import Context, Maps, Result, load, to_bundle
from fhirserver.hl7v2.message import Message

ROOT = Path(__file__).parent.parent.parent.parent
CASES = ROOT / "tests" / "cases" / "hl7v2"
CONTEXT = Context(
    organization="lakeside",
    namespace="https://exchange.example/namespace/",
    received=datetime(2026, 9, 14, 17, 15, tzinfo=UTC),
    timezone="America/Los_Angeles",
    message="InboundMessage/1",
    software="fhirserver test",
)


@cache
def definitions() -> Definitions:
    own = [json.loads(path.read_text()) for path in sorted((ROOT / "profiles").glob("*.json"))]
    return Definitions.load().extended(own, 1)


@cache
def maps() -> Maps:
    return load(ROOT / "mappings", definitions())


def mapped(raw: bytes, context: Context = CONTEXT) -> Result:
    return to_bundle(maps(), Message.parse(raw), context, trace=True)


def golden(result: Result) -> Any:
    """What a golden file keeps of a result, as decoded JSON."""
    kept = {
        "bundle": result.bundle,
        "effects": result.effects,
        "deletes": result.deletes,
        "unmapped": [[u.table, u.code, u.field] for u in result.unmapped],
        "skipped": result.skipped,
        "warnings": result.warnings,
    }
    return decode(encode(kept))
