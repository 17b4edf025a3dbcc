"""The JSON text of a version as it lies in a document: itself, or compressed where it is large.

A MongoDB document has at most 16 MB; a Bundle of definitions has 30 MB and shrinks to one. Below `LARGE` a text stays
as it is: reads answer it without touching it.
"""

from __future__ import annotations

import zstandard

LARGE = 1024 * 1024
MOST_BYTES = 1 << 30  # the largest body that can be configured


def packed(text: str) -> str | bytes:
    """What to put into the document."""
    return text if len(text) < LARGE else zstandard.compress(text.encode())


def plain(held: str | bytes) -> str:
    """The text that `packed` was given."""
    return held if isinstance(held, str) else zstandard.decompress(held, MOST_BYTES).decode()
