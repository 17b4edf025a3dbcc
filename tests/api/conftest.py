"""The API under test: one application for the session, an organization of its own for every test."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest
from flask import Flask

from fhirserver import app
from fhirserver.auth.principal import Principal
from fhirserver.settings import Secret, Settings
from tests.api.client import Api
from tests.api.relaying import record_events

HOSPITAL = {
    "resourceType": "Organization",
    "active": True,
    "name": "Test Hospital",
    "type": [
        {"coding": [{"system": "https://fhirserver.example/fhir/CodeSystem/organization-kind", "code": "provider"}]}
    ],
}
KEY = "a master key for tests that is long enough"


@pytest.fixture(scope="session")
def installation(mongo_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[app.Installation]:
    """The server over the session's MongoDB, without a queue."""
    settings = Settings(
        data=tmp_path_factory.mktemp("api"),
        mongo_url=Secret(mongo_url),
        mongo_database=f"api-{uuid.uuid4().hex[:8]}",
        master_key=Secret(KEY),
        public_url="http://api.test",
        page_size=20,
        page_size_max=200,
        max_body=4 * 1024 * 1024,
    )
    made = app.build(settings)
    yield made
    made.server.store.database.client.close()


@pytest.fixture(scope="session")
def flask_app(installation: app.Installation) -> Flask:
    return app.create_app(installation)


@pytest.fixture(scope="session")
def token(installation: app.Installation) -> Callable[[Principal], str]:
    """Issues the access token of a principal."""
    return lambda principal: installation.tokens.issue(principal, 3600)


@pytest.fixture(scope="session")
def registry(flask_app: Flask, token: Callable[[Principal], str]) -> Api:
    """The platform operator on the registry's base."""
    operator = Principal("operator", id="operator", operator=True, scopes="system/*.cruds", name="tests")
    return Api(flask_app, "/1/health/fhir/4", token(operator))


@pytest.fixture(scope="session")
def new_base(registry: Api, token: Callable[[Principal], str]) -> Callable[..., Api]:
    """Makes a provider organization and answers a caller on its base; `scopes` are those of the caller's token."""

    def make(scopes: str = "system/*.cruds", organization: str = "") -> Api:
        id = organization or str(registry.create(HOSPITAL)["id"])
        principal = Principal("operator", id="operator", organization=id, operator=True, scopes=scopes, name="tests")
        return Api(registry.app, f"/1/health/organizations/{id}/fhir/4", token(principal))

    return make


@pytest.fixture
def api(new_base: Callable[..., Api]) -> Api:
    """Somebody who may do everything on the base of an organization of the test's own."""
    return new_base()


@pytest.fixture
def scoped(new_base: Callable[..., Api], api: Api) -> Callable[[str], Api]:
    """A caller on the same base as `api` whose token has these scopes."""
    return lambda scopes: new_base(scopes, api.organization)


@pytest.fixture
def recorded(installation: app.Installation) -> Callable[[], None]:
    """Does what the relay does: makes AuditEvents of the spool and of pending events."""

    def work() -> None:
        server = installation.server
        record_events(server, installation.settings.data / app.SPOOL)

    return work
