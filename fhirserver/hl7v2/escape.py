"""Escape sequences of HL7v2 text: \\F\\ \\S\\ \\T\\ \\R\\ \\E\\ \\P\\ \\X..\\ \\H\\ \\N\\ and the formatting commands
(v2.8.2 chapter 2, 2.7).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

# Formatting commands of FT text that mean white space; highlighting (\H\ \N\) means nothing outside a terminal.
_SPACE: Mapping[str, str] = {"H": "", "N": "", ".br": "\n", ".sp": "\n", ".fi": "", ".nf": "", ".ce": "\n"}
_NUMBERED = re.compile(r"\.(sp|in|ti|sk)\s*([+-]?\d{0,3})$")
_HEX = re.compile(r"X(?:[0-9A-Fa-f]{2})+$")


# What neither FHIR strings nor people can read: C0 and C1 controls but for tab and line ends, surrogates, non-
# characters.
CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Escapes:
    """Decodes the escape sequences of one message's delimiters; counts those it does not know, which stay as they
    are.
    """

    __slots__ = ("_encode", "_known", "_pattern", "character", "codec", "unknown")

    def __init__(self, field: str, component: str, repetition: str, escape: str, subcomponent: str, codec: str) -> None:
        self.character = escape
        self.codec = codec
        self.unknown = 0
        delimiters = {"F": field, "S": component, "T": subcomponent, "R": repetition, "E": escape, "P": "#"}
        self._known = {**_SPACE, **{name: value for name, value in delimiters.items() if value}}
        self._encode = {value: f"{escape}{name}{escape}" for name, value in delimiters.items() if value and name != "P"}
        quoted = re.escape(escape)
        self._pattern = re.compile(f"{quoted}([^{quoted}\r\n]{{0,2000}}){quoted}") if escape else None

    def decode(self, text: str) -> str:
        """The text that the sender meant."""
        if self._pattern is None or self.character not in text:
            return text
        return self._pattern.sub(self._meaning, text)

    def encode(self, text: str) -> str:
        """Text made safe to stand in a field; line ends become `\\.br\\`."""
        if not self.character:
            return text
        out = "".join(self._encode.get(character, character) for character in text)
        line = f"{self.character}.br{self.character}"
        return out.replace("\r\n", line).replace("\r", line).replace("\n", line)

    def _meaning(self, match: re.Match[str]) -> str:
        sequence = match.group(1)
        meaning = self._known.get(sequence)
        if meaning is not None:
            return meaning
        if _HEX.match(sequence):
            return CONTROLS.sub(" ", bytes.fromhex(sequence[1:]).decode(self.codec, "replace"))
        numbered = _NUMBERED.match(sequence)
        if numbered:
            count = min(abs(int(numbered.group(2) or 1)), 100) if numbered.group(2) not in ("+", "-") else 1
            return "\n" * count if numbered.group(1) == "sp" else " " * count if numbered.group(1) == "sk" else ""
        self.unknown += 1
        return match.group(0)
