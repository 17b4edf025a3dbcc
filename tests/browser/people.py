"""Who uses the console in these tests: an administrator of each kind of organization, and a platform operator."""

from __future__ import annotations

from dataclasses import dataclass

import requests

from tests.running import Running

PASSWORD = "correct-horse-battery-9"


@dataclass(frozen=True)
class Person:
    """Somebody who signs in; `organization` is the kind of theirs, none for an operator."""

    email: str
    name: str
    organization: str = ""
    called: str = ""
    password: str = PASSWORD


PEOPLE = {
    "application": Person("ada@acme.example", "Ada Okafor", "application", "Acme Health Apps"),
    "hospital": Person("jonas@riverside.example", "Jonas Lindqvist", "provider", "Riverside General Hospital"),
    "operator": Person("olga@platform.example", "Olga Petrova"),
}


def furnish(running: Running) -> dict[str, str]:
    """Makes the organizations and the people; answers the organizations' ids by role."""
    ids = {
        who: running.cli("organization", "create", person.called, "--kind", person.organization)
        for who, person in PEOPLE.items()
        if person.organization
    }
    base = f"{running.base_url}/1/health/fhir/4"
    token = running.cli("token", "--organization", ids["hospital"])
    for who, person in PEOPLE.items():
        user = {
            "resourceType": "User",
            "email": person.email,
            "name": person.name,
            "role": "admin" if person.organization else "operator",
            "password": person.password,
            **({"organization": {"reference": f"Organization/{ids[who]}"}} if person.organization else {}),
        }
        answer = requests.post(f"{base}/User", json=user, headers={"Authorization": f"Bearer {token}"}, timeout=30)
        assert answer.status_code == 201, answer.text
    return ids
