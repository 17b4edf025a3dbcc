"""Executing a search: joins first (chains, reverse chains, lists), then one indexed find, page by keyset. FHIR R4:
search.

Access is part of the filter of every find, the inner ones of a chain and those of includes too, so nothing leaks
through them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pymongo.collection import Collection

from fhirserver.auth.access import NOBODY, Access, Own
from fhirserver.fhir.problem import problem
from fhirserver.search import mongo
from fhirserver.search.query import (
    Chain,
    Clause,
    Contained,
    Has,
    Ids,
    Leaf,
    Listed,
    Nothing,
    References,
    SortKey,
    both,
    either,
    rewrite,
    walk,
)
from fhirserver.search.text import after_prefix, any_of, normal, one_of
from fhirserver.store.database import CLIENT, OWNER, SEALED, Document, Session, translated
from fhirserver.store.keyset import Keyset, Span, Stage, ordering, value_at
from fhirserver.store.model import Page, Stored, Total
from fhirserver.store.resources import PROJECTION, Store, key, stored

MOST_JOINED = 20_000
"""Resources that the inner search of a chain or `_has` may find."""
MOST_CRITERIA = 100
SHOWN = {"o": 1, "i": 1, "v": 1, "t": 1, "m": 1, "d": 1, "x": 1, "p": 1}
"""What of a document a page needs; the index values would be three times as much."""
JOINS = (Chain, Has, Listed)


@dataclass(frozen=True, slots=True)
class Search:
    """A search of one type, joined and compiled: ready to be paged and counted."""

    type: str
    filter: Document
    fields: tuple[tuple[str, ...], ...]
    around: Document
    """The filter without the clause that `span` says."""
    span: Span | None = None
    """Where the only clause is the start of a text."""
    whose: str = "o"
    """The field that every match has one value of few in: what its indexes begin with."""


def compile_search(
    store: Store, access: Access, type: str, clauses: Iterable[Clause], session: Session | None
) -> Search | None:
    """The search of these clauses within what the access permits; None where it permits nothing of the type."""
    permitted = access.clauses(type, "s")
    if permitted is None:
        return None
    clause = mongo.absorbed(joined(store, access, type, both(*permitted, *clauses), session))
    around: Document = {"o": access.organization}
    if not mongo.found_by_values(clause):
        around["x"] = None  # only where it says something: no index has it, so it makes mongod fetch what it counts
    whose, filter = "o", around
    if access.own is not None and type == SEALED:
        around, whose = {**_of(access.own), "x": None}, whose if access.own.owners in (None, NOBODY) else OWNER
        filter = {"$and": [around, mongo.filter(clause)]}
    else:
        # The range of `_id` says what `o` says, in the order of the pages: without it a search that no index narrows
        # would sort everything that the organization has, for every page.
        own = {"_id": {"$gt": f"{access.organization}/", "$lt": f"{access.organization}0"}}
        kept = [_keyed(mongo.filter(one), access.organization) for one in mongo.alternatives(clause)]
        filter = any_of([{"$and": [around, own, one]} for one in kept])
    return Search(type, filter, mongo.index_fields(clause), around, _span(clause), whose)


def narrowed(filter: Document, more: Sequence[Document]) -> Document:
    """The filter of a search with more conditions; an Or stays outermost, where each of its parts has its index."""
    if not more:
        return filter
    if list(filter) == ["$or"]:
        return {"$or": [{"$and": [one, *more]} for one in filter["$or"]]}
    return {"$and": [filter, *more]}


def _of(own: Own) -> Document:
    """What the private part of an audit record must say."""
    if own.owners is None:
        return one_of(CLIENT, sorted(own.clients or ()))
    # Where no client is named there is one: then the index on the id serves too, which is of records with one.
    client = {CLIENT: {"$exists": True}} if own.clients is None else one_of(CLIENT, sorted(own.clients))
    owner = {OWNER: None} if own.owners == NOBODY else one_of(OWNER, sorted(own.owners))
    return {**owner, **client}


def _span(clause: Clause) -> Span | None:
    if not isinstance(clause, Leaf) or clause.type != "string" or clause.modifier or len(clause.values) != 1:
        return None
    low = normal(clause.values[0])
    return Span(f"s.{clause.parameter}", low, after_prefix(low))


def _keyed(filter: Any, organization: str) -> Any:
    """The filter with what it asks of the id asked of `_id`, which has the index."""
    if isinstance(filter, list):
        return [_keyed(part, organization) for part in filter]
    keyed: Document = {}
    for name, value in filter.items():
        if name == "i" and isinstance(value, str):
            keyed["_id"] = key(organization, value)
        elif name == "i" and list(value) == ["$in"]:
            keyed["_id"] = {"$in": [key(organization, id) for id in value["$in"]]}
        else:
            keyed[name] = _keyed(value, organization) if name in ("$and", "$or", "$nor") else value
    return keyed


def find(
    store: Store,
    search: Search,
    sort: Sequence[SortKey],
    count: int,
    *,
    after: Sequence[Any] | None = None,
    before: Sequence[Any] | None = None,
    values: Sequence[str] = (),
    session: Session | None = None,
) -> Page:
    """One page of at most `count` matches, those after (or before) a keyset that an earlier page answered; with the
    search values of the parameters named in `values`.
    """
    if session is None:
        fields = [*search.fields, *((key.field,) for key in sort)]
        store.indexes.ensure(search.type, fields, search.whose)
    order = order_of(store, search, sort, session)
    backwards = before is not None
    shown = SHOWN | {name: 1 for name, _ in order.keys} | {f"s.{code}": 1 for code in values}
    documents = _fetch(store, search, order, count + 1, before if backwards else after, backwards, shown, session)
    more = len(documents) > count
    documents = documents[:count]
    if backwards:
        documents.reverse()
    matches = [stored(search.type, document) for document in documents]
    if not documents:
        return Page(matches)
    first, last = order.of(documents[0]), order.of(documents[-1])
    return Page(
        matches,
        after=last if more or backwards else None,
        before=first if (more if backwards else after is not None) else None,
        values=[document.get("s") or {} for document in documents] if values else (),
    )


def order_of(store: Store, search: Search, sort: Sequence[SortKey], session: Session | None) -> Keyset | Span:
    """The order in which the matches of a search are shown and paged."""
    span = search.span
    if span and not sort and session is None and store.indexes.made(search.type, (span.field,)):
        return span
    return ordering([(key.field, key.descending) for key in sort])


def total(store: Store, search: Search, bound: int, session: Session | None = None) -> Total:
    """How many match, counted up to `bound`."""
    if session is None:
        store.indexes.ensure(search.type, search.fields, search.whose)
    collection = store.database.collection(search.type)
    with translated(session):
        count = collection.count_documents(
            search.filter, limit=bound + 1, maxTimeMS=store.database.query_limit_ms, session=session
        )
    return Total(min(count, bound), bounded=count > bound)


def joined(store: Store, access: Access, type: str, clause: Clause, session: Session | None = None) -> Clause:
    """The clause with every chain, reverse chain and list replaced by the references or ids that the inner search
    finds.
    """
    if not any(isinstance(part, JOINS) for part in walk(clause)):
        return clause

    def replacement(part: Clause) -> Clause | None:
        if isinstance(part, Chain):
            return _pointing_at(store, access, type, part, session)
        if isinstance(part, Has):
            return _pointed_at(store, access, type, part, session)
        if isinstance(part, Listed):
            return _listed(store, access, type, part, session)
        return None

    return rewrite(clause, replacement)


def by_references(
    store: Store, access: Access, references: Iterable[str], letter: str = "r", *, session: Session | None = None
) -> list[Stored]:
    """The current versions that relative references name, as far as the access permits; deleted ones are left out."""
    wanted: dict[str, list[str]] = {}
    for text in dict.fromkeys(references):
        type, _, id = text.partition("/")
        if id and type[:1].isupper() and type.isalnum():
            wanted.setdefault(type, []).append(f"{access.organization}/{id.partition('/')[0]}")
    found: list[Stored] = []
    for type, keys in wanted.items():
        clauses = access.clauses(type, letter)
        if clauses is None:
            continue
        narrowed = mongo.filter(joined(store, access, type, both(*clauses), session))
        filter = {"$and": [{"_id": {"$in": keys}, "x": None}, narrowed]}
        with translated(session):
            cursor = store.database.collection(type).find(
                filter, PROJECTION, session=session, max_time_ms=store.database.query_limit_ms
            )
            found += [stored(type, document) for document in cursor]
    return found


def referrers(
    store: Store,
    access: Access,
    type: str,
    parameter: str,
    targets: Sequence[str],
    limit: int,
    session: Session | None = None,
) -> list[Stored]:
    """At most `limit` resources of `type` whose reference parameter holds one of the targets."""
    search = compile_search(store, access, type, [References(parameter, frozenset(targets))], session)
    if search is None:
        return []
    return list(find(store, search, (), limit, session=session).matches)


def index_values(
    store: Store,
    organization: str,
    type: str,
    ids: Sequence[str],
    parameters: Sequence[str],
    session: Session | None = None,
) -> dict[str, Document]:
    """Id -> the search values of these resources for the reference parameters named."""
    keys = [f"{organization}/{id}" for id in ids]
    with translated(session):
        cursor = store.database.collection(type).find(
            {"_id": {"$in": keys}},
            {"i": 1, **{f"s.{name}": 1 for name in parameters}},
            session=session,
            max_time_ms=store.database.query_limit_ms,
        )
        return {document["i"]: document.get("s") or {} for document in cursor}


def _fetch(
    store: Store,
    search: Search,
    order: Keyset | Span,
    limit: int,
    start: Sequence[Any] | None,
    backwards: bool,
    projection: Document,
    session: Session | None,
) -> list[Document]:
    collection = store.database.collection(search.type)
    documents: list[Document] = []
    with translated(session):
        for stage in order.stages(start, backwards):
            if len(documents) == limit:
                break
            base = search.filter if isinstance(order, Keyset) else search.around
            room = limit - len(documents)
            filters = [*stage.filters, *_cut(store, collection, stage, base, room, session)]
            filter = narrowed(base, filters)
            if stage.pipeline:
                steps = [{"$match": filter}, *stage.pipeline, {"$limit": room}, {"$project": projection}]
                documents += collection.aggregate(
                    steps, session=session, maxTimeMS=store.database.query_limit_ms, allowDiskUse=True
                )
            else:
                documents += store.database.documents(
                    search.type, filter, projection, limit=room, sort=stage.sort, hint=stage.hint, session=session
                )
    return documents


def _cut(
    store: Store, collection: Collection[Document], stage: Stage, base: Document, room: int, session: Session | None
) -> list[Document]:
    """What leaves out of a sort by several keys all that the page has no room for: the first key's own index tells
    where the last one is that it may show.
    """
    if stage.cut is None:
        return []
    cut = stage.cut
    asked = narrowed(base, [*stage.filters, *([cut.past] if cut.past else [])])
    cursor = collection.find(asked, {cut.field: 1}, session=session, max_time_ms=store.database.query_limit_ms)
    last = next(iter(cursor.sort([(cut.field, cut.direction)]).skip(room - 1).limit(1)), None)
    return [cut.to(value_at(last, cut.field))] if last else []


def _pointing_at(store: Store, access: Access, type: str, chain: Chain, session: Session | None) -> Clause:
    """What a chain leads to: resources of their own, and those that are contained (search#contained)."""
    ids = _ids(store, access, chain.type, chain.clause, session)
    found: Clause = References(chain.parameter, frozenset(f"{chain.type}/{id}" for id in ids)) if ids else Nothing()
    permitted = access.clauses(chain.type, "s")
    if permitted is None or not store.containers.holds(type, chain.type):
        return found
    inner = joined(store, access, chain.type, both(*permitted, chain.clause), session)
    return either(found, Contained(chain.type, inner, chain.parameter)) if inner != Nothing() else found


def _ids(store: Store, access: Access, type: str, clause: Clause, session: Session | None) -> list[str]:
    search = compile_search(store, access, type, [clause], session)
    if search is None:
        return []
    # Of the `_id` alone: the index of the parameter has it, so that no document is fetched.
    return [document["_id"].partition("/")[2] for document in _inner(store, search, {"_id": 1}, session)]


def _pointed_at(store: Store, access: Access, type: str, has: Has, session: Session | None) -> Clause:
    search = compile_search(store, access, has.type, [has.clause], session)
    if search is None:
        return Nothing()
    prefix = f"{type}/"
    found = {
        text.removeprefix(prefix)
        for document in _inner(store, search, {f"s.{has.parameter}": 1}, session)
        for text in (document.get("s") or {}).get(has.parameter, ())
        if isinstance(text, str) and text.startswith(prefix)
    }
    return Ids(frozenset(found)) if found else Nothing()


def _listed(store: Store, access: Access, type: str, listed: Listed, session: Session | None) -> Clause:
    version = store.read(access, "List", listed.list, session=session)
    if version is None or version.deleted:
        raise problem("not-found", f"List/{listed.list} is not known here.", "_list")
    items = [entry.get("item", {}).get("reference", "") for entry in version.resource().get("entry", [])]
    ids = frozenset(text.removeprefix(f"{type}/") for text in items if text.startswith(f"{type}/"))
    if len(ids) > MOST_JOINED:
        raise problem("too-costly", f"List/{listed.list} has more than {MOST_JOINED} {type}.", "_list")
    return Ids(ids) if ids else Nothing()


def _inner(store: Store, search: Search, fields: Document, session: Session | None) -> list[Document]:
    if session is None:
        store.indexes.ensure(search.type, search.fields, search.whose)
    with translated(session):
        cursor = store.database.collection(search.type).find(
            search.filter, fields, session=session, max_time_ms=store.database.query_limit_ms
        )
        documents = list(cursor.limit(MOST_JOINED + 1))
    if len(documents) > MOST_JOINED:
        raise problem(
            "too-costly",
            f"The chained search finds more than {MOST_JOINED} {search.type}; make its inner criteria more selective.",
        )
    return documents
