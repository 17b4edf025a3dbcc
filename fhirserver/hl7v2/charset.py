"""Which bytes are which characters: MSH-18 (HL7 table 0211), the endpoint's default, and what senders really do.

HL7 v2.8.2 chapter 2, 2.14.9.18 and 2.16.2 (character sets). ISO 2022 sets may hold the delimiter bytes inside a
character, so a message is decoded before it is split.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from fhirserver.fhir.problem import problem

DEFAULT = "UNICODE UTF-8"

# HL7 table 0211 -> Python codec. What is written outside the table but seen on the wire is here as well.
CODECS: Mapping[str, str] = {
    "ASCII": "ascii",
    "US-ASCII": "ascii",
    "ISO IR6": "ascii",
    **{f"8859/{part}": f"iso8859-{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16)},
    **{f"ISO-8859-{part}": f"iso8859-{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16)},
    **{f"ISO8859/{part}": f"iso8859-{part}" for part in (1, 2, 5, 7, 9, 15)},
    "UNICODE UTF-8": "utf-8",
    "UTF-8": "utf-8",
    "UTF8": "utf-8",
    "UNICODE": "utf-8",
    "ISO IR14": "iso2022_jp_ext",
    "ISO IR87": "iso2022_jp_ext",
    "ISO IR159": "iso2022_jp_ext",
    "GB 18030-2000": "gb18030",
    "KS X 1001": "euc_kr",
    "BIG-5": "big5",
    "WINDOWS-1252": "cp1252",
    "CP1252": "cp1252",
}
_WINDOWS = re.compile(rb"[\x80-\x9f]")
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff")


def codec_of(names: Sequence[str]) -> str | None:
    """The codec of the repetitions of MSH-18, or None where none is known. A Japanese set in any repetition decides."""
    codecs = [CODECS.get(name.strip().upper(), "") for name in names]
    if "iso2022_jp_ext" in codecs:
        return "iso2022_jp_ext"
    return next((codec for codec in codecs if codec), None)


def decode(raw: bytes, declared: Sequence[str], default: str) -> tuple[str, str, list[str]]:
    """The text of a message, the codec that read it, and warnings.

    `declared` are the repetitions of MSH-18, `default` the endpoint's set (a name of table 0211). The declared set is
    tried first. Where it says ASCII or nothing and the bytes disagree, UTF-8 and then Latin-1 are tried; any other
    set replaces what it cannot read.
    """
    warnings: list[str] = []
    codec = codec_of(declared)
    if codec is None:
        if any(declared):
            warnings.append(f"MSH-18 names a character set that is not known ({declared[0][:40]}); {default} was used")
        codec = CODECS.get(default.strip().upper(), "utf-8")
    try:
        codec = _widened(raw, codec)
        return raw.decode(codec), codec, warnings
    except UnicodeDecodeError:
        warnings.append(f"the bytes are not {codec}, which MSH-18 or the endpoint says")
    for other in ("utf-8", "iso8859-1") if codec in ("ascii", "utf-8") and not _says_unicode(declared) else ():
        try:
            other = _widened(raw, other)
            return raw.decode(other), other, warnings
        except UnicodeDecodeError:
            continue
    return raw.decode(codec, "replace"), codec, warnings


def _widened(raw: bytes, codec: str) -> str:
    """Latin-1 has no characters where Windows has its quotation marks: bytes there mean Windows-1252 was sent."""
    if codec == "iso8859-1" and _WINDOWS.search(raw):
        try:
            raw.decode("cp1252")
        except UnicodeDecodeError:
            return codec
        return "cp1252"
    return codec


def refuse_wide(raw: bytes) -> None:
    """Raises Problem(structure) for UTF-16: its bytes cannot travel in MLLP frames."""
    if raw.startswith(_WIDE_BOMS):
        raise problem(
            "structure", "The message is UTF-16; HL7v2 over MLLP needs a single-byte or UTF-8 character set.", "MSH-18"
        )


def _says_unicode(declared: Sequence[str]) -> bool:
    return codec_of(declared) == "utf-8"
