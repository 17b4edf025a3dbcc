"""Asking organizations to let a client in, and what they said."""

from __future__ import annotations

from flask import Response as HttpResponse

from fhirserver.rules.authorization import MORE, STEPS
from fhirserver.rules.organization import kind_concept
from fhirserver.web.console.application.answers import explained, id_of, titles
from fhirserver.web.console.application.clients import named
from fhirserver.web.console.here import Here
from fhirserver.web.console.listing import Filter

STATUSES = ("waiting-for-approval", "approved", "rejected", "disabled", "withdrawn")


def authorizations(here: Here) -> HttpResponse:
    """Those of all clients in one list."""
    found = here.list(
        "ClientAuthorization",
        ("provider", f"Organization/{here.organization}"),
        ("_sort", "-requested"),
        find="name:contains",
        filters=(
            Filter("status", "status", STATUSES, "common.status"),
            Filter("kind", "kind", ("production", "test"), "application.kind"),
        ),
    )
    return here.page("application/authorizations.html", found=found)


def authorization(here: Here) -> HttpResponse:
    """One: where it stands, what it permits, what was decided and by whom."""
    found = here.read("ClientAuthorization", here.values["authorization"])
    profiles = found.get("iheProfile", ())
    held, wanted = (explained(here, str(found.get(name, "")), profiles) for name in ("scope", "pendingScope"))
    kept, asked = ({each["scope"] for each in side} for side in (held, wanted))
    names = {"client": found["clientName"], "organization": found.get("organizationName", "")}
    return here.page(
        "application/authorization.html",
        title=here.t("application.authorization.of", **names),
        found=found,
        client=id_of(found["client"]),
        permissions=held,
        pending=[{**each, "new": each["scope"] not in kept} for each in wanted],
        dropped=[each for each in held if wanted and each["scope"] not in asked],
        profiles=titles(here),
        withdrawable=found["status"] in STEPS["withdraw"].before,
        again=found["status"] in STEPS["request"].before,
        admin=here.may("update", "ClientApplication"),
    )


def withdraw(here: Here) -> HttpResponse:
    """Takes a request back."""
    with here.trying():
        here.operate("ClientAuthorization", here.values["authorization"], "withdraw", note=here.form.get("note", ""))
    if here.refused:
        return authorization(here)
    address = here.url("application.authorization", authorization=here.values["authorization"])
    return here.go(address, said="application.authorization.withdrawn")


def request(here: Here) -> HttpResponse:
    """Request Authorization: the organization, the reason, a look at it, sent."""
    client = named(here)
    wanted = here.form.get("organization", "") if here.posted else here.asked.get("at", "")
    if not wanted:
        return _choose(here, client)
    organization = here.read("Organization", wanted)
    do = here.form.get("do", "")
    if do == "send":
        with here.trying():
            made = here.operate(
                "ClientApplication",
                client["id"],
                "request-authorization",
                organization={"reference": f"Organization/{organization['id']}"},
                reason=here.form.get("reason", ""),
            )
        if not here.refused:
            address = here.url("application.authorization", authorization=made["id"])
            return here.go(address, said="application.request.sent", organization=str(organization.get("name", "")))
    known = here.found(
        "ClientAuthorization",
        ("client", f"ClientApplication/{client['id']}"),
        ("organization", f"Organization/{organization['id']}"),
    )
    review = do == "review" and bool(here.form.get("reason", "").strip())
    return here.page(
        "application/request.html",
        client=client,
        to=organization,
        known=known[0] if known else None,
        reason=here.form.get("reason", known[0].get("reason", "") if known else ""),
        step="review" if review else "reason",
        permissions=explained(here, str(client.get("scope", "")), client.get("iheProfile", ())) if review else [],
        profiles=titles(here) if review else {},
        more=bool(known) and known[0]["status"] in MORE["request"].before,
    )


def _choose(here: Here, client: dict[str, object]) -> HttpResponse:
    coding = kind_concept("provider")["coding"][0]
    found = here.list(
        "Organization",
        ("type", f"{coding['system']}|{coding['code']}"),
        ("_sort", "name"),
        find="name:contains",
    )
    ids = ",".join(f"Organization/{each['id']}" for each in found.entries)
    mine = ("client", f"ClientApplication/{client['id']}")
    known = here.found("ClientAuthorization", mine, ("organization", ids), ("_count", "100")) if ids else []
    return here.page(
        "application/request_organization.html",
        client=client,
        found=found,
        known={id_of(each["organization"]): each for each in known},
    )
