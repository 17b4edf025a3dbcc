"""Who asks. Made by authentication, judged by `auth.access`, named in audit records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

KINDS = ("client", "user", "operator", "anonymous", "system")


@dataclass(frozen=True, slots=True)
class Principal:
    """A client, a user, the local operator, nobody, or the server itself.

    `id` is the client's or user's id; `organization` the home organization of a client or user, and for the local
    operator's token the organization it was issued for. `roles` says "admin" or "member" per organization id;
    `operator` marks a platform operator. `client` is the application a user acts through, `patient` the patient in
    launch context, `audience` the bases a token is bound to (none: every base). `scopes` is the text of the token's
    scopes. `client_since` and `user_since` are when its client and user were registered (`registered`, an instant): an
    id that was given away, deleted and registered again is somebody else's. `issued` is when the token was, in seconds.
    """

    kind: str
    id: str = ""
    organization: str = ""
    roles: Mapping[str, str] = field(default_factory=dict)
    operator: bool = False
    scopes: str = ""
    token: str = ""
    name: str = ""
    client: str = ""
    patient: str = ""
    audience: tuple[str, ...] = ()
    issued: int = 0
    client_since: str = ""
    user_since: str = ""

    def admin(self, organization: str) -> bool:
        """Whether this is an administrator of that organization: a user with that role, or the operator's token issued
        for it.
        """
        if self.kind == "operator":
            return bool(organization) and organization == self.organization
        return self.kind == "user" and self.roles.get(organization) == "admin"

    @property
    def reference(self) -> str:
        """The relative reference that names who asks, empty where no resource stands for it."""
        kind = {"client": "ClientApplication", "user": "User"}.get(self.kind)
        return f"{kind}/{self.id}" if kind else ""


ANONYMOUS = Principal("anonymous", name="anonymous")
SYSTEM = Principal("system", id="system", operator=True, name="the server")
