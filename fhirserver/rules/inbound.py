"""InboundMessage: kept as it came. Its status is the server's to change, by processing and by operations."""

from __future__ import annotations

from fhirserver.rules.model import Rule

TYPE = "InboundMessage"
KEPT = "An InboundMessage is kept as it came: use $reprocess, $defer or $resolve. No message is dropped."
SENT = "An InboundMessage comes to be by a message: send it over MLLP, to the path /hl7v2 or to $process-message."

RULE = Rule(TYPE, refused={"create": SENT, **dict.fromkeys(("update", "patch", "delete"), KEPT)})
