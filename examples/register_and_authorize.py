"""An application registers, gets a token, asks a hospital for access, and gets and loses it."""

from __future__ import annotations

from exchange import REGISTRY, access_token, base, fhir, fhirserver, parameters

KIND = "https://fhirserver.example/fhir/CodeSystem/organization-kind"
SCOPE = "system/Patient.rs system/Subscription.cruds"


def people() -> tuple[str, str, str]:
    """An application provider and a hospital, each with an administrator: the hospital's id, and those people's tokens.

    `fhirserver organization create` and `user create` do the same; the operator of the first start can do it over HTTP.
    """
    operator = fhirserver("token", "--user", "operator@localhost")
    hospital, tokens = "", []
    for kind, name in (("application", "Acme Apps"), ("provider", "Lakeside Hospital")):
        concept = {"coding": [{"system": KIND, "code": kind}]}
        organization = {"resourceType": "Organization", "active": True, "name": name, "type": [concept]}
        hospital = fhir(operator, "POST", f"{REGISTRY}/Organization", organization, status=201)["id"]
        email = f"admin@{hospital}.example"
        user = {"email": email, "role": "admin", "organization": {"reference": f"Organization/{hospital}"}}
        fhir(operator, "POST", f"{REGISTRY}/User", {"resourceType": "User", **user}, status=201)
        tokens.append(fhirserver("token", "--user", email))
    return hospital, tokens[0], tokens[1]


def registered(provider_admin: str, scope: str = SCOPE) -> tuple[str, str]:
    """Registers a client: its id and its secret, which is in this answer and in no other."""
    client = {
        "resourceType": "ClientApplication",
        "name": "Ward Board",
        "kind": "production",
        "grantType": ["client_credentials"],
        "scope": scope,
    }
    made = fhir(provider_admin, "POST", f"{REGISTRY}/ClientApplication", client, status=201)
    return made["id"], made["secret"]


def authorized(client: str, hospital: str, provider_admin: str, hospital_admin: str) -> str:
    """The application asks with a reason, the hospital approves: the URL of the ClientAuthorization."""
    asked = fhir(
        provider_admin,
        "POST",
        f"{REGISTRY}/ClientApplication/{client}/$request-authorization",
        parameters(organization={"reference": f"Organization/{hospital}"}, reason="The ward board shows admissions."),
    )
    authorization = f"{REGISTRY}/ClientAuthorization/{asked['id']}"
    fhir(hospital_admin, "POST", f"{authorization}/$approve", parameters(note="Agreed with the ward."))
    return authorization


def main() -> None:
    """Plays it and prints what was answered."""
    hospital, provider_admin, hospital_admin = people()
    client, secret = registered(provider_admin)
    token = access_token(client, secret, SCOPE)
    patients = f"{base(hospital)}/Patient"

    refusal = fhir(token, "GET", patients, status=403)
    print("before:  ", refusal["issue"][0]["diagnostics"])

    authorization = authorized(client, hospital, provider_admin, hospital_admin)
    print("approved:", fhir(token, "GET", patients)["total"], "patients")

    fhir(hospital_admin, "POST", f"{authorization}/$disable", parameters(note="The device was lost."))
    refusal = fhir(token, "GET", patients, status=403)
    print("disabled:", refusal["issue"][0]["diagnostics"])

    fhir(hospital_admin, "POST", f"{authorization}/$enable", parameters(note="It was found."))
    print("enabled: ", fhir(token, "GET", patients)["total"], "patients")


if __name__ == "__main__":
    main()
