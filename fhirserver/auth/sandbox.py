"""Sandboxes: each test client has one organization of its own to try things in, known by its id alone. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from fhirserver.fhir.problem import problem

PREFIX = "sandbox-"
"""How the id of every sandbox organization begins, and of no other."""

TAG_SYSTEM, TAG = "https://fhirserver.example/fhir/CodeSystem/organization-tag", "sandbox"
"""What sandbox organizations are tagged with, so that others can leave them out."""


def sandbox_of(client: str) -> str:
    """The id of the sandbox organization of a client."""
    return PREFIX + sha256(client.encode()).hexdigest()[:32]


def is_sandbox(organization: str) -> bool:
    """Whether the id is that of a sandbox organization."""
    return organization.startswith(PREFIX)


def require_same_world(client: Mapping[str, Any], organization: str) -> None:
    """Raises Problem(forbidden) where a test client asks for more than its sandbox, or a production client for one."""
    if client.get("kind") == "test" and organization != sandbox_of(client["id"]):
        raise problem(
            "forbidden",
            f"A test client reaches its sandbox only, which POST ClientApplication/{client['id']}/$sandbox on the"
            " registry names. Register a production client for this organization.",
        )
    if client.get("kind") != "test" and is_sandbox(organization):
        raise problem("forbidden", "A production client reaches no sandbox: register a test client.")
