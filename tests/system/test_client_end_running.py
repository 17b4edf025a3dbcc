"""What hangs on a deleted client is ended by the real relay and a real job."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from tests.running import Running, wait_until

pytestmark = pytest.mark.slow
REGISTRY = "/1/health/fhir/4"


def test_the_relay_and_a_job_end_what_hangs_on_a_deleted_client(running: Running) -> None:
    acme = running.cli("organization", "create", "Ending Acme", "--kind", "application").split()[-1]
    token = running.cli("token", "--organization", acme).split()[-1]

    def call(method: str, path: str, token: str = token, **more: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {token}"}
        return requests.request(method, f"{running.base_url}{path}", headers=headers, timeout=60, **more)

    client = call(
        "POST",
        f"{REGISTRY}/ClientApplication",
        json={
            "resourceType": "ClientApplication",
            "name": "Ending",
            "grantType": ["client_credentials"],
            "scope": "system/*.cruds",
            "managingOrganization": {"reference": f"Organization/{acme}"},
        },
    ).json()
    form = {"grant_type": "client_credentials", "client_id": client["id"], "client_secret": client["secret"]}
    own = requests.post(f"{running.base_url}/oauth2/token", data=form, timeout=60).json()["access_token"]
    made = call("POST", f"{REGISTRY}/ClientApplication/{client['id']}/$sandbox", own).json()["parameter"]
    sandbox = made[0]["valueReference"]["reference"]
    assert requests.get(f"{made[1]['valueUrl']}/Patient", headers={"Authorization": f"Bearer {own}"}, timeout=60).ok

    assert call("DELETE", f"{REGISTRY}/ClientApplication/{client['id']}").status_code == 200
    assert call("GET", f"{REGISTRY}/ClientApplication/{client['id']}", own).status_code == 401
    wait_until(lambda: call("GET", f"{REGISTRY}/{sandbox}").status_code == 410, 60)
    found = call("GET", f"{REGISTRY}/ClientAuthorization?client=ClientApplication/{client['id']}").json()
    assert [entry["resource"]["status"] for entry in found["entry"]] == ["removed"]
