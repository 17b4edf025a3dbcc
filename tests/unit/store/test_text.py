"""Texts in the database: small ones as they are, large ones compressed, each read back as it was."""

from __future__ import annotations

import pytest

from fhirserver.store.text import LARGE, packed, plain


@pytest.mark.parametrize(
    ("text", "kind"), [("{}", str), ("ä" * 10, str), ("ä" * LARGE, bytes), ("x" * 40_000_000, bytes)]
)
def test_a_text_is_read_back_as_it_was(text: str, kind: type) -> None:
    held = packed(text)
    assert isinstance(held, kind)
    assert plain(held) == text
    assert len(held) <= max(LARGE, len(text) // 10)
