"""What lies at rest: envelopes, keyed hashes and passwords."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fhirserver.auth import secrets
from fhirserver.auth.secrets import Vault


def random(count: int) -> bytes:
    return bytes(range(count))


VAULT = Vault(b"m" * 32, random)


def test_an_envelope_gives_its_text_back_for_its_purpose_only() -> None:
    envelope = VAULT.encrypt("Bearer æ", "header")
    assert "Bearer" not in envelope
    assert VAULT.decrypt(envelope, "header") == "Bearer æ"
    with pytest.raises(ValueError, match="another purpose"):
        VAULT.decrypt(envelope, "signing")


@pytest.mark.parametrize("change", [lambda e: e[:-2] + "AA", lambda e: "v2" + e[2:], lambda e: "", lambda e: e[:13]])
def test_a_changed_envelope_is_refused(change: Callable[[str], str]) -> None:
    with pytest.raises(ValueError, match="encrypted"):
        VAULT.decrypt(change(VAULT.encrypt("text")))


def test_what_an_older_master_key_wrote_can_still_be_read_and_compared() -> None:
    newer = Vault(b"n" * 32, random, b"m" * 32)
    assert newer.decrypt(VAULT.encrypt("text")) == "text"
    assert newer.matches("secret", VAULT.seal("secret"))
    assert newer.seal("secret") != VAULT.seal("secret")
    with pytest.raises(ValueError, match="another master key"):
        VAULT.decrypt(newer.encrypt("text"))


def test_a_sealed_secret_matches_itself_alone_and_tells_nothing() -> None:
    sealed = VAULT.seal("my-super-secret")
    assert "my-super-secret" not in sealed
    assert VAULT.matches("my-super-secret", sealed)
    for other in ("my-super-secreT", "", "my-super-secret "):
        assert not VAULT.matches(other, sealed)
    for damaged in ("", "h1", "h1.00000000.x", sealed + "x", sealed[:-1]):
        assert not VAULT.matches("my-super-secret", damaged)


def test_a_made_secret_has_256_bits() -> None:
    assert len(VAULT.new_secret()) == 43
    assert secrets.signing_secret(VAULT.new_secret()).startswith("whsec_")


def test_a_short_master_key_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Vault(b"short", random)


def test_a_password_is_kept_as_argon2id_and_checked() -> None:
    hashed = secrets.hash_password("correct horse 1!", "salt")
    assert hashed.startswith("$argon2id$")
    assert secrets.check_password("correct horse 1!", hashed)
    assert not secrets.check_password("wrong horse 1!", hashed)
    assert not secrets.check_password("correct horse 1!", None)
    assert not secrets.check_password("x" * 1000, hashed)
    assert not secrets.check_password("x", "not a hash")
