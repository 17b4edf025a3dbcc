"""What particular resource types do beside being stored: server defaults, secrets taken out, state machines as tables.
Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from fhirserver.rules import audit, authorization, client, endpoint, organization, subscription, user
from fhirserver.rules.model import Rule

RULES: Mapping[str, Rule] = {
    module.RULE.type: module.RULE
    for module in (audit, authorization, client, endpoint, organization, subscription, user)
}
