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
from fhirserver.search.query import Contained
from tests.properties.search_strategies import BASE, TYPES, containers, populations

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
    return {"_id": number, "i": str(number), "t": NOW + timedelta(hours=number), **entry.document()}, entry


@settings(deadline=None, max_examples=80, suppress_health_check=list(HealthCheck))
@given(populations)
def test_mongodb_and_the_matcher_find_the_same_resources(
    collection: Collection[dict[str, Any]],
    population: tuple[str, list[dict[str, Any]], list[list[tuple[str, str]]]],
) -> None:
    type, resources, searches = population
    stored = [_stored(number, resource) for number, resource in enumerate(resources)]
    collection.delete_many({})
    collection.insert_many([document for document, _ in stored])
    for pairs in searches:
        query = parse(DEFINITIONS, type, pairs, base=BASE, now=NOW, strict=True)
        found = {document["_id"] for document in collection.find(mongo.filter(query.clause), {"_id": 1})}
        expected = {
            document["_id"] for document, entry in stored if matches(query.clause, entry, document["i"], document["t"])
        }
        assert found == expected, (type, pairs, query.clause, mongo.filter(query.clause))


@settings(deadline=None, max_examples=50, suppress_health_check=list(HealthCheck))
@given(containers, st.sampled_from(("", "subject", "patient")))
def test_they_find_the_same_resources_inside_others(
    collection: Collection[dict[str, Any]],
    population: tuple[str, list[dict[str, Any]], list[list[tuple[str, str]]]],
    by: str,
) -> None:
    type, resources, searches = population
    stored = [_stored(number, resource) for number, resource in enumerate(resources)]
    collection.delete_many({})
    collection.insert_many([document for document, _ in stored])
    for pairs in searches:
        clause = Contained(type, parse(DEFINITIONS, type, pairs, base=BASE, now=NOW, strict=True).clause, by)
        found = {document["_id"] for document in collection.find(mongo.filter(clause), {"_id": 1})}
        expected = {document["_id"] for document, entry in stored if matches(clause, entry, document["i"])}
        assert found == expected, (type, pairs, clause, mongo.filter(clause))
