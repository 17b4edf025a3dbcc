"""What particular resource types do beside being stored: server defaults, secrets taken out, state machines as tables.
Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from fhirserver.rules import (
    audit,
    authorization,
    bulk_export,
    client,
    communication,
    definition,
    endpoint,
    inbound,
    organization,
    policy,
    subscription,
    user,
)
from fhirserver.rules.model import Rule

RULES: Mapping[str, Rule] = {
    rule.type: rule
    for rule in (
        *(
            module.RULE
            for module in (
                audit,
                authorization,
                bulk_export,
                client,
                communication,
                endpoint,
                inbound,
                organization,
                policy,
                subscription,
                user,
            )
        ),
        *definition.RULES,
    )
}
