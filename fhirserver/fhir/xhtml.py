"""Narrative: well-formed XHTML with formatting only, nothing that runs or is fetched from within the text.

FHIR R4: narrative#xhtml, invariants txt-1 (elements and attributes) and txt-2 (has content).
"""

from __future__ import annotations

from html.entities import name2codepoint
from typing import Any
from xml.parsers import expat

XHTML = "http://www.w3.org/1999/xhtml"

_ELEMENTS = frozenset(
    """
    a abbr acronym b big blockquote br caption cite code col colgroup dd dfn div dl dt em h1 h2 h3 h4 h5 h6 hr i img li
    ol p pre q samp small span strong sub sup table tbody td tfoot th thead tr tt ul var
    """.split()  # noqa: SIM905 - a list of fifty quoted words reads worse
)
_ATTRIBUTES = frozenset(
    """
    abbr accesskey align alt axis bgcolor border cellhalign cellpadding cellspacing cellvalign char charoff charset
    cite class colspan compact coords dir frame headers height href hreflang hspace id lang longdesc name nowrap rel rev
    rowspan rules scope shape span src start style summary tabindex title type valign value vspace width
    xmlns xml:lang xml:space
    """.split()  # noqa: SIM905
)
_ADDRESSES = ("href", "src", "cite", "longdesc")
_SCHEMES = frozenset({"javascript", "vbscript", "livescript"})


class _Refused(Exception):
    """The text breaks txt-1; the message says how, in words for the caller."""


class _Reader:
    """Receives what the parser finds and refuses what may not be there."""

    def __init__(self, parser: expat.XMLParserType) -> None:
        self.parser = parser
        self.root = True
        self.content = False

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if self.root:
            self.root = False
            if name != "div":
                raise _Refused("must be one <div> element")
            if attributes.get("xmlns", XHTML) != XHTML:
                raise _Refused(f'must be in the namespace of XHTML: xmlns="{XHTML}"')
        if name not in _ELEMENTS:
            raise _Refused("has an element that a narrative may not have: use formatting elements only")
        if name == "img" and "src" in attributes:
            self.content = True
        if attributes:
            _check_attributes(attributes)

    def text(self, data: str) -> None:
        if not data.isspace():
            self.content = True
            self.parser.CharacterDataHandler = None  # one word is enough to know

    def entity(self, name: str, _is_parameter: bool) -> None:
        if name not in name2codepoint:
            raise _Refused("has an entity that XHTML does not define")
        self.content = True

    def doctype(self, *_: Any) -> None:
        raise _Refused("must not have a document type declaration")

    def instruction(self, *_: Any) -> None:
        raise _Refused("must not have processing instructions")


def _check_attributes(attributes: dict[str, str]) -> None:
    if not _ATTRIBUTES.issuperset(attributes):
        raise _Refused("has an attribute that a narrative may not have, such as an event handler: remove it")
    for name in _ADDRESSES:
        if name in attributes:
            scheme = "".join(c for c in attributes[name].partition(":")[0] if c > " ").lower()
            if scheme in _SCHEMES:
                raise _Refused("has an address that runs a script: remove it")


def check(value: Any) -> tuple[str, str] | None:
    """None for an xhtml value that may stand in a narrative; else the FHIR issue type and what is wrong with it."""
    if type(value) is not str:
        return "value", "must be a JSON string (xhtml)"
    parser = expat.ParserCreate()
    reader = _Reader(parser)
    parser.UseForeignDTD(True)  # lets the parser report entities it does not know, such as &nbsp;, instead of failing
    parser.StartElementHandler = reader.start
    parser.CharacterDataHandler = reader.text
    parser.SkippedEntityHandler = reader.entity
    parser.StartDoctypeDeclHandler = reader.doctype
    parser.ProcessingInstructionHandler = reader.instruction
    parser.XmlDeclHandler = reader.instruction
    try:
        parser.Parse(value, True)
    except _Refused as refused:
        return "invariant", f"{refused} (txt-1)"
    except (expat.ExpatError, UnicodeEncodeError):
        return "value", "must be well-formed XML: one <div> element, every element closed, & written as &amp;"
    return None if reader.content else ("invariant", "must have some text or an image (txt-2)")
