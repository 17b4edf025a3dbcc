"""The screens of provider organizations: requests of clients, subscriptions, messages, mappings, audit, members."""

from __future__ import annotations

from fhirserver.web.console.common.exports import UNDER_WAY
from fhirserver.web.console.hospital.clients import activity, client, clients
from fhirserver.web.console.hospital.exports import export, exports
from fhirserver.web.console.hospital.mapping import workbench
from fhirserver.web.console.hospital.members import member, member_new, members
from fhirserver.web.console.hospital.messages import STUCK, code, codes, message, messages
from fhirserver.web.console.hospital.overlays import overlay, overlay_new
from fhirserver.web.console.hospital.records import patient, record, records, seals
from fhirserver.web.console.hospital.subscriptions import deliveries, delivery, subscription, subscriptions
from fhirserver.web.console.hospital.topics import topic, topics
from fhirserver.web.console.screen import Area, Screen, Waiting

BOTH = ("GET", "POST")
# fmt: off
# ruff: noqa: E501 - a table is read by its columns
SCREENS: tuple[Screen, ...] = (
    Screen("hospital.clients",       "/clients",               clients,       "hospital", nav=True, parent="hospital.home"),
    Screen("hospital.client",        "/clients/<id>",          client,        "hospital", BOTH, parent="hospital.clients"),
    Screen("hospital.activity",      "/clients/<id>/activity", activity,      "hospital", parent="hospital.client"),
    Screen("hospital.subscriptions", "/subscriptions",         subscriptions, "hospital", nav=True, parent="hospital.home"),
    Screen("hospital.subscription",  "/subscriptions/<id>",    subscription,  "hospital", BOTH, parent="hospital.subscriptions"),
    Screen("hospital.deliveries",    "/subscriptions/<id>/deliveries", deliveries, "hospital", BOTH, parent="hospital.subscription"),
    Screen("hospital.delivery",      "/subscriptions/<id>/deliveries/<delivery>", delivery, "hospital", BOTH, parent="hospital.deliveries"),
    Screen("hospital.exports",       "/exports",               exports,       "hospital", nav=True, parent="hospital.home"),
    Screen("hospital.export",        "/exports/<id>",          export,        "hospital", BOTH, parent="hospital.exports"),
    Screen("hospital.topics",        "/topics",                topics,        "hospital", BOTH, nav=True, parent="hospital.home"),
    Screen("hospital.topic",         "/topics/<id>",           topic,         "hospital", BOTH, parent="hospital.topics"),
    Screen("hospital.messages",      "/messages",              messages,      "hospital", BOTH, nav=True, parent="hospital.home"),
    Screen("hospital.message",       "/messages/<id>",         message,       "hospital", BOTH, parent="hospital.messages"),
    Screen("hospital.codes",         "/codes",                 codes,         "hospital", nav=True, parent="hospital.home"),
    Screen("hospital.code",          "/codes/<id>",            code,          "hospital", BOTH, parent="hospital.codes"),
    Screen("hospital.mapping",       "/mapping",               workbench,     "hospital", BOTH, nav=True, parent="hospital.home"),
    Screen("hospital.overlay-new",   "/mapping/new",           overlay_new,   "hospital", BOTH, parent="hospital.mapping"),
    Screen("hospital.overlay",       "/mapping/<id>",          overlay,       "hospital", BOTH, parent="hospital.mapping"),
    Screen("hospital.records",       "/audit",                 records,       "hospital", nav=True, parent="hospital.home"),
    Screen("hospital.patient",       "/audit/patient",         patient,       "hospital", parent="hospital.records"),
    Screen("hospital.seals",         "/audit/seals",           seals,         "hospital", parent="hospital.records"),
    Screen("hospital.record",        "/audit/<id>",            record,        "hospital", parent="hospital.records"),
    Screen("hospital.members",       "/members",               members,       "hospital", nav=True, parent="hospital.home"),
    Screen("hospital.member-new",    "/members/new",           member_new,    "hospital", BOTH, parent="hospital.members"),
    Screen("hospital.member",        "/members/<id>",          member,        "hospital", BOTH, parent="hospital.members"),
)
# fmt: on
WAITING: tuple[Waiting, ...] = (
    Waiting(
        "common.notifications.unread",
        "Communication",
        (("recipient", "Organization/{organization}"), ("read-by:not", "{user}")),
        "hospital.notifications",
    ),
    Waiting(
        "hospital.waiting.clients",
        "ClientAuthorization",
        (("organization", "Organization/{organization}"), ("status", "waiting-for-approval")),
        "hospital.clients",
        (("status", "waiting-for-approval"),),
        tone="warn",
    ),
    Waiting(
        "hospital.waiting.more",
        "ClientAuthorization",
        (("organization", "Organization/{organization}"), ("pending", "true")),
        "hospital.clients",
        (("more", "true"),),
        tone="warn",
    ),
    Waiting(
        "hospital.waiting.subscriptions",
        "Subscription",
        (("status", "requested"),),
        "hospital.subscriptions",
        (("status", "requested"),),
        own=True,
        tone="warn",
    ),
    Waiting(
        "hospital.waiting.messages",
        "InboundMessage",
        (("status", STUCK),),
        "hospital.messages",
        (("status", STUCK),),
        own=True,
        tone="bad",
    ),
    Waiting(
        "hospital.waiting.codes",
        "Task",
        (("code", "https://fhirserver.example/fhir/CodeSystem/hl7v2-task|map-code"), ("status", "requested")),
        "hospital.codes",
        (("status", "requested"),),
        own=True,
        tone="warn",
    ),
    Waiting(
        "hospital.waiting.exports",
        "BulkExport",
        (("status", UNDER_WAY),),
        "hospital.exports",
        (("status", UNDER_WAY),),
        own=True,
    ),
)
AREA = Area(SCREENS, WAITING)
