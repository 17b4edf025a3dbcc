"""Communication: on an organization's base a resource like any other, on the registry a notice of the server's."""

from __future__ import annotations

from fhirserver.rules.model import REGISTRY, Rule

TYPE = "Communication"
NOTICE = "A notice on the registry is written by the server alone; mark it as read with $mark-read."

RULE = Rule(TYPE, refused_on={REGISTRY: dict.fromkeys(("create", "update", "patch", "delete"), NOTICE)})
