"""The keystone: MongoDB, asked with the filter of a search, finds what the in-memory matcher finds."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo import MongoClient
from pymongo.collection import Collection

from fhirserver.fhir.definitions import Definitions
from fhirserver.search import mongo
from fhirserver.search.index import Entry, Indexer, indexer
from fhirserver.search.match import matches
from fhirserver.search.parse import parse
from tests.properties.search_strategies import BASE, TYPES, resources, searches

NOW = datetime(2020, 3, 1, tzinfo=UTC)
DEFINITIONS = Definitions.load()
INDEXERS: dict[str, Indexer] = {type: indexer(DEFINITIONS, type, BASE) for type in TYPES}


@pytest.fixture(scope="module")
def collection(mongo_url: str) -> Iterator[Collection[dict[str, Any]]]:
    with MongoClient[dict[str, Any]](mongo_url) as client:
        yield client["search_agreement"]["resources"]
        client.drop_database("search_agreement")


def _stored(number: int, resource: dict[str, Any]) -> tuple[dict[str, Any], Entry]:
    entry = INDEXERS[resource["resourceType"]](resource)
    instant = NOW + timedelta(hours=number)
    document = {"_id": number, "i": str(number), "t": instant, "type": resource["resourceType"], **entry.document()}
    return document, entry


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.lists(resources, min_size=4, max_size=12), st.lists(searches, min_size=10, max_size=20))
def test_mongodb_and_the_matcher_find_the_same_resources(
    collection: Collection[dict[str, Any]],
    drawn: list[dict[str, Any]],
    asked: list[tuple[str, list[tuple[str, str]]]],
) -> None:
    stored = [_stored(number, resource) for number, resource in enumerate(drawn)]
    collection.delete_many({})
    collection.insert_many([document for document, _ in stored])
    for type, pairs in asked:
        query = parse(DEFINITIONS, type, pairs, base=BASE, now=NOW, strict=True)
        found = {d["_id"] for d in collection.find({"$and": [{"type": type}, mongo.filter(query.clause)]}, {"_id": 1})}
        expected = {
            document["_id"]
            for document, entry in stored
            if document["type"] == type and matches(query.clause, entry, document["i"], document["t"])
        }
        assert found == expected, (type, pairs, query.clause, mongo.filter(query.clause))
