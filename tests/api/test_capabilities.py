"""capabilities: the CapabilityStatement says what is so. FHIR R4: http#capabilities, capabilitystatement."""

from __future__ import annotations

from typing import Any

import pytest

from fhirserver.app import Installation
from fhirserver.fhir.validation import validate
from tests.api.client import Api


def rest(statement: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Type -> what is said about it."""
    return {each["type"]: each for each in statement["rest"][0]["resource"]}


def test_anybody_may_read_the_statement_of_an_organizations_base(api: Api) -> None:
    answer = Api(api.app, api.base).get("metadata")
    statement = answer.json
    assert answer.status == 200
    assert (statement["resourceType"], statement["fhirVersion"], statement["kind"]) == (
        "CapabilityStatement",
        "4.0.1",
        "instance",
    )
    assert statement["implementation"]["url"] == f"http://api.test{api.base}"


def test_the_statements_are_valid(api: Api, registry: Api, installation: Installation) -> None:
    for base in (api, registry):
        issues = validate(installation.server.definitions, base.get("metadata").json)
        assert [issue.diagnostics for issue in issues if issue.severity == "error"] == []


def test_types_are_listed_where_they_are_served(api: Api, registry: Api) -> None:
    organization, kept = rest(api.get("metadata").json), rest(registry.get("metadata").json)
    assert {"Patient", "Observation", "InboundMessage", "NotificationDelivery"} <= set(organization)
    assert {"StructureDefinition", "ClientApplication", "User", "Organization"} <= set(kept)
    assert "StructureDefinition" not in organization
    assert "Patient" not in kept
    for path in ("Patient", "Observation"):
        assert registry.get(path).status == 404
        assert api.get(path).status == 200


def test_interactions_parameters_and_operations_are_listed(api: Api) -> None:
    patient = rest(api.get("metadata").json)["Patient"]
    assert {"read", "vread", "update", "patch", "delete", "create", "search-type", "history-instance"} <= {
        each["code"] for each in patient["interaction"]
    }
    assert patient["conditionalCreate"] is True
    assert patient["conditionalDelete"] == "multiple"
    parameters = {each["name"]: each for each in patient["searchParam"]}
    assert parameters["birthdate"] == {
        "name": "birthdate",
        "definition": "http://hl7.org/fhir/SearchParameter/individual-birthdate",
        "type": "date",
    }
    assert {"validate", "everything", "meta", "meta-add", "meta-delete"} <= {
        each["name"] for each in patient["operation"]
    }
    assert all(each["definition"].startswith("http") for each in patient["operation"])
    assert "Patient:organization" in patient["searchInclude"]


def test_what_is_refused_is_not_listed(registry: Api) -> None:
    authorization = rest(registry.get("metadata").json)["ClientAuthorization"]
    codes = {each["code"] for each in authorization["interaction"]}
    assert "create" not in codes
    answer = registry.post("ClientAuthorization", {"resourceType": "ClientAuthorization"})
    assert answer.status == 405
    assert "Allow" in answer.headers


def test_system_interactions_and_security_are_listed(api: Api) -> None:
    server = api.get("metadata").json["rest"][0]
    assert {each["code"] for each in server["interaction"]} == {
        "transaction",
        "batch",
        "search-system",
        "history-system",
    }
    assert server["security"]["service"][0]["coding"][0]["code"] == "SMART-on-FHIR"


@pytest.mark.parametrize(("mode", "status"), [("full", 200), ("normative", 200), ("terminology", 400), ("other", 400)])
def test_mode(api: Api, mode: str, status: int) -> None:
    assert api.get(f"metadata?mode={mode}").status == status


def test_summary_leaves_the_detail_out(api: Api) -> None:
    statement = api.get("metadata?_summary=true").json
    assert "rest" not in statement
    assert statement["meta"]["tag"][0]["code"] == "SUBSETTED"


def test_metadata_is_not_written(api: Api) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert api.call(method, "metadata", None if method == "DELETE" else {}).status in (404, 405)


@pytest.mark.parametrize("path", ["metadata", ".well-known/smart-configuration"])
def test_what_needs_no_token_tells_nobody_which_organizations_there_are(api: Api, path: str) -> None:
    nowhere = "01nowhere"
    there = Api(api.app, api.base).get(path)
    made_up = Api(api.app, f"/1/health/organizations/{nowhere}/fhir/4").get(path)
    assert there.status == made_up.status == 200
    assert there.data.replace(api.organization.encode(), nowhere.encode()) == made_up.data
    known = Api(api.app, f"/1/health/organizations/{nowhere}/fhir/4", api.token).get("Patient")
    assert (known.status, known.issue["code"]) in ((404, "not-found"), (403, "forbidden"))
