"""The screens of platform operators: every resource, organizations and users, policies, queues, packages, settings."""

from __future__ import annotations

from fhirserver.web.console.operator.editor import edit, new, remove
from fhirserver.web.console.operator.organizations import organization, organization_new, organizations
from fhirserver.web.console.operator.policies import decision, policies
from fhirserver.web.console.operator.resources import history, list_, resource, types, versions
from fhirserver.web.console.operator.users import user, user_new, users
from fhirserver.web.console.operator.watching import definition, definitions, health, keys, packages, queues, settings
from fhirserver.web.console.screen import Area, Screen, Waiting

BOTH, POST = ("GET", "POST"), ("POST",)
# fmt: off
# ruff: noqa: E501 - a table is read by its columns
SCREENS: tuple[Screen, ...] = (
    Screen("operator.organizations",    "/organizations",             organizations,    "operator", nav=True, parent="operator.home"),
    Screen("operator.organization-new", "/organizations/new",         organization_new, "operator", BOTH, parent="operator.organizations"),
    Screen("operator.organization",     "/organizations/of/<id>",     organization,     "operator", BOTH, parent="operator.organizations"),
    Screen("operator.users",            "/users",                     users,            "operator", nav=True, parent="operator.home"),
    Screen("operator.user-new",         "/users/new",                 user_new,         "operator", BOTH, parent="operator.users"),
    Screen("operator.user",             "/users/of/<id>",             user,             "operator", BOTH, parent="operator.users"),
    Screen("operator.all",              "/resources",                 types,            "operator", nav=True, parent="operator.home"),
    Screen("operator.types",            "/resources/<base>",          types,            "operator", parent="operator.home"),
    Screen("operator.list",             "/resources/<base>/<type>",   list_,            "operator", parent="operator.all"),
    Screen("operator.new",              "/new/<base>/<type>",         new,              "operator", BOTH, parent="operator.list"),
    Screen("operator.resource",         "/resources/<base>/<type>/<id>", resource,      "operator", parent="operator.list"),
    Screen("operator.edit",             "/edit/<base>/<type>/<id>",   edit,             "operator", BOTH, parent="operator.resource"),
    Screen("operator.remove",           "/remove/<base>/<type>/<id>", remove,           "operator", POST, parent="operator.resource"),
    Screen("operator.history",          "/history/<base>/<type>/<id>", history,         "operator", parent="operator.resource"),
    Screen("operator.version",          "/version/<base>/<type>/<id>", versions,        "operator", parent="operator.history"),
    Screen("operator.policies",         "/policies",                  policies,         "operator", nav=True, parent="operator.home"),
    Screen("operator.decision",         "/policies/decision",         decision,         "operator", parent="operator.policies"),
    Screen("operator.queues",           "/queues",                    queues,           "operator", BOTH, nav=True, parent="operator.home"),
    Screen("operator.health",           "/health",                    health,           "operator", nav=True, parent="operator.home"),
    Screen("operator.packages",         "/packages",                  packages,         "operator", BOTH, nav=True, parent="operator.home"),
    Screen("operator.definitions",      "/search-parameters",         definitions,      "operator", nav=True, parent="operator.home"),
    Screen("operator.definition",       "/search-parameters/<id>",    definition,       "operator", parent="operator.definitions"),
    Screen("operator.settings",         "/settings",                  settings,         "operator", nav=True, parent="operator.home"),
    Screen("operator.keys",             "/signing-keys",              keys,             "operator", BOTH, nav=True, parent="operator.home"),
    # The same browser for the people of a provider organization, on its own base.
    Screen("operator.own-types",        "/resources",                 types,            "hospital", nav=True, parent="hospital.home"),
    Screen("operator.own-list",         "/resources/<type>",          list_,            "hospital", parent="operator.own-types"),
    Screen("operator.own-new",          "/new/<type>",                new,              "hospital", BOTH, parent="operator.own-list"),
    Screen("operator.own-resource",     "/resources/<type>/<id>",     resource,         "hospital", parent="operator.own-list"),
    Screen("operator.own-edit",         "/edit/<type>/<id>",          edit,             "hospital", BOTH, parent="operator.own-resource"),
    Screen("operator.own-remove",       "/remove/<type>/<id>",        remove,           "hospital", POST, parent="operator.own-resource"),
    Screen("operator.own-history",      "/history/<type>/<id>",       history,          "hospital", parent="operator.own-resource"),
    Screen("operator.own-version",      "/version/<type>/<id>",       versions,         "hospital", parent="operator.own-history"),
)
WAITING: tuple[Waiting, ...] = (
    Waiting("operator.waiting.organizations", "Organization", (("_tag:not", "sandbox"),), "operator.organizations", tone="none"),
    Waiting("operator.waiting.users", "User", (), "operator.users", tone="none"),
    Waiting("operator.waiting.clients", "ClientApplication", (("active", "true"),), "operator.list", (("base", "registry"), ("type", "ClientApplication"), ("q", "active=true")), tone="none"),
    Waiting("operator.waiting.strangers", "InboundMessage", (("status", "received,failed,parse-error,mapping-error"),), "operator.list", (("base", "registry"), ("type", "InboundMessage")), tone="warn"),
    Waiting("operator.waiting.policies", "AccessPolicy", (("active:not", "false"),), "operator.policies", tone="none"),
)
# fmt: on
AREA = Area(SCREENS, WAITING)
