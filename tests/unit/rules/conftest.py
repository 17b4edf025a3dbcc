"""A context that knows no clock and no chance: who writes, on which base."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from fhirserver.auth.principal import Principal
from fhirserver.auth.secrets import Vault
from fhirserver.fhir import Resource
from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.validation import validate
from fhirserver.rules.model import REGISTRY, Context

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
PROFILES = Path(__file__).parents[3] / "profiles"
VAULT = Vault(b"k" * 32, lambda size: bytes(size))


@cache
def definitions() -> Definitions:
    shipped = [json.loads(file.read_text()) for file in sorted(PROFILES.glob("*.json"))]
    return Definitions.load().extended(shipped, 1)


Make = Callable[..., Context]


@pytest.fixture
def made() -> Make:
    """The Context of a write: `made(principal, organization)`."""
    numbers = count(1)

    def make(principal: Principal, organization: str = REGISTRY, **more: Any) -> Context:
        return Context(
            principal=principal,
            organization=organization,
            now=NOW,
            new_id=lambda: f"id{next(numbers)}",
            new_secret=lambda: f"secret-{next(numbers)}-0123456789abcdefghijklmnopqrstuv",
            seal=VAULT.seal,
            matches=VAULT.matches,
            encrypt=VAULT.encrypt,
            definitions=definitions(),
            **more,
        )

    return make


def faults(resource: Resource) -> list[str]:
    """What validation finds wrong with a resource, advice left aside."""
    found = validate(definitions(), {**resource, "id": resource.get("id", "x")})
    return [issue.diagnostics for issue in found if issue.severity != "warning"]


@pytest.fixture
def vault() -> Vault:
    return VAULT


def admin(organization: str) -> Principal:
    return Principal(
        "user", f"admin-{organization}", organization, roles={organization: "admin"}, name=f"Ann {organization}"
    )


def member(organization: str) -> Principal:
    return Principal("user", f"member-{organization}", organization, roles={organization: "member"})


@pytest.fixture
def people() -> dict[str, Principal]:
    """Principals by name: acme builds applications, hospital has data, other is another hospital."""
    return {
        "acme": admin("acme"),
        "acme member": member("acme"),
        "hospital": admin("hospital"),
        "hospital member": member("hospital"),
        "other": admin("other"),
        "client": Principal("client", "cli", "acme", scopes="system/*.cruds", name="CLI"),
        "another client": Principal("client", "another", "acme", scopes="system/*.cruds"),
        "operator": Principal("user", "olga", operator=True, name="Olga"),
        "local hospital": Principal("operator", "local", "hospital", scopes="system/*.cruds"),
        "local acme": Principal("operator", "local", "acme", scopes="system/*.cruds"),
    }
