"""A page of a search as a list on a screen: what was searched for, its entries, the addresses of the pages beside it.

The screen's own address says everything: `q` for the search box, a name for each filter, `page` for the API's cursor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from fhirserver.fhir import Resource
from fhirserver.web.console.days import first_instant, last_instant

SIZE = 20
MOST_FOUND = 200
"""Characters of what somebody searches for."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A choice above a list: its name in the address, the search parameter, the codes, the family of their texts.

    The text `<family>.label` is its label. `words` are the texts of codes that no catalogue knows: names of resources.
    With `typed` (text or date) it is a field to type in instead; `prefix` comes before what was typed, as ge.
    """

    name: str
    parameter: str
    codes: tuple[str, ...]
    family: str
    words: Mapping[str, str] = field(default_factory=dict)
    typed: str = ""
    prefix: str = ""
    shown: bool = True
    """Whether it is drawn above the list; tabs may stand for it instead."""

    def taken(self, value: str) -> str:
        """Of what the address says the part that counts: a code that is offered, or what was typed."""
        value = value.strip()[:MOST_FOUND]
        return value if self.typed or value in self.codes else ""

    def sought(self, value: str, zone: tzinfo = UTC) -> str:
        """The value of the search parameter. A day begins and ends where the viewer lives."""
        if self.typed == "date":
            with suppress(ValueError, OverflowError):  # what is no day stays as it is, and the search says so
                return self.prefix + (last_instant if self.prefix == "le" else first_instant)(value, zone)
        return self.prefix + (_literal(value) if self.typed == "text" else value)


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of a list. `total` is None where there are too many to count."""

    path: str
    entries: list[Resource] = field(default_factory=list)
    included: Mapping[str, Resource] = field(default_factory=dict)
    urls: Mapping[str, str] = field(default_factory=dict)
    """The absolute URL of each entry by its id: an audit record may lie on any base."""
    total: int | None = None
    find: str = ""
    """What was typed into the search box."""
    searchable: bool = False
    filters: Sequence[Filter] = ()
    chosen: Mapping[str, str] = field(default_factory=dict)
    before: str = ""
    after: str = ""

    @property
    def narrowed(self) -> bool:
        """Whether something was searched for or filtered by: then an empty list does not mean that there is nothing."""
        return bool(self.find or self.chosen or self.before)

    @property
    def previous(self) -> str:
        """The address of the page before, "" where there is none."""
        return self._address(self.before) if self.before else ""

    @property
    def next(self) -> str:
        """The address of the next page, "" where there is none."""
        return self._address(self.after) if self.after else ""

    def _address(self, cursor: str) -> str:
        asked = {"q": self.find, **self.chosen, "page": cursor}
        return f"{self.path}?{urlencode({name: value for name, value in asked.items() if value})}"


def asked_of(args: Mapping[str, str], find: str, filters: Sequence[Filter]) -> tuple[str, dict[str, str], str]:
    """Of a screen's query: the text searched for, the codes chosen, the cursor. What no filter offers is left out."""
    text = args.get("q", "").strip()[:MOST_FOUND] if find else ""
    chosen = {each.name: value for each in filters if (value := each.taken(args.get(each.name, "")))}
    return text, chosen, args.get("page", "")


def search_of(
    text: str, chosen: Mapping[str, str], cursor: str, find: str, filters: Sequence[Filter], zone: tzinfo = UTC
) -> list[tuple[str, str]]:
    """The search parameters of what was asked, by somebody in this time zone."""
    pairs = [(each.parameter, each.sought(chosen[each.name], zone)) for each in filters if each.name in chosen]
    if text:
        pairs.append((find, _literal(text)))
    if cursor:
        pairs.append(("_cursor", cursor))
    return pairs


def listing_of(bundle: Resource, path: str, **asked: Any) -> Listing:
    """The list that a searchset holds."""
    links = {link["relation"]: _cursor(link["url"]) for link in bundle.get("link", ())}
    entries = bundle.get("entry", ())
    included = [entry["resource"] for entry in entries if entry["search"]["mode"] == "include"]
    return Listing(
        path,
        [entry["resource"] for entry in entries if entry["search"]["mode"] == "match"],
        {f"{each['resourceType']}/{each['id']}": each for each in included},
        {entry["resource"]["id"]: entry.get("fullUrl", "") for entry in entries if "id" in entry["resource"]},
        bundle.get("total"),
        before=links.get("previous", ""),
        after=links.get("next", ""),
        **asked,
    )


def _literal(text: str) -> str:
    """A text as a search parameter's value means it, whatever signs are in it."""
    return "".join(f"\\{sign}" if sign in ",|$\\" else sign for sign in text)


def _cursor(url: str) -> str:
    return parse_qs(urlsplit(url).query).get("_cursor", [""])[0]
