"""E-mail about notices, to the administrators of the organization that a notice is for. RFC 5321, 5322, 3834.

What is to be sent waits in the database, written together with the notice; a job sends it, and again later where the
mail server is away. An e-mail says what happened and no more: the reasons that people gave are read after signing in.
"""

from __future__ import annotations

import ipaddress
import logging
import smtplib
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.message import EmailMessage
from email.utils import format_datetime
from hashlib import sha256
from typing import Any
from urllib.parse import unquote, urlsplit

from fhirserver.auth.access import everything
from fhirserver.fhir import Resource
from fhirserver.interactions.model import Server
from fhirserver.rules.model import target
from fhirserver.search.query import References
from fhirserver.store.database import Session
from fhirserver.store.kept import MAIL, Kept, links_of, mail_key
from fhirserver.store.model import REGISTRY
from fhirserver.store.search import compile_search, find

log = logging.getLogger(__name__)

JOB = "mail"
KEEP = timedelta(days=2)
"""How long a notice is tried to be sent."""
REMEMBER = timedelta(days=7)
LEASE_SECONDS = 300.0
SMTP_SECONDS = 20.0
FIRST_WAIT, LONGEST_WAIT = timedelta(seconds=15), timedelta(hours=1)
MOST_ADDRESSES = 100
MOST_SUBJECT = 150
LINK_SUBJECT = "Set your password"

Put = Callable[[str, Iterable[Sequence[str]]], object]


class Waiting:
    """The notices that wait to be sent, by their ids."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    def add(self, notice: str, now: datetime, session: Session | None = None) -> None:
        """Lets a notice wait, as of `session`'s transaction where one is given."""
        until = now + KEEP
        value = {"notice": notice, "attempts": 0, "next": now, "until": until}
        self._kept.replace(mail_key(notice), value, until, MAIL, session=session)

    def get(self, notice: str, now: datetime) -> dict[str, Any] | None:
        """What is known of a waiting notice (attempts, next, until), None where it does not wait."""
        return self._kept.get(mail_key(notice), now)

    def due(self, now: datetime) -> list[str]:
        """The notices whose next attempt has its time, a thousand at most."""
        return [value["notice"] for value in self._kept.of_group(MAIL, now) if value["next"] <= now]

    def later(self, value: dict[str, Any], now: datetime) -> None:
        """Puts off what could not be sent: each time twice as long, up to an hour."""
        attempts = int(value["attempts"])
        wait = min(FIRST_WAIT * 2 ** min(attempts, 16), LONGEST_WAIT)
        again = {**value, "attempts": attempts + 1, "next": now + wait}
        groups = [MAIL, *([links_of(value["user"])] if value.get("user") else [])]
        self._kept.replace(mail_key(value["notice"]), again, value["until"], *groups)

    def done(self, notice: str) -> None:
        """Takes off a notice that was sent."""
        self._kept.drop(mail_key(notice))

    def sent(self, notice: str, address: str, now: datetime) -> bool:
        """Whether a notice went to an address before."""
        return self._kept.get(_sent(notice, address), now) is not None

    def note(self, notice: str, address: str, now: datetime) -> None:
        """Remembers that a notice went to an address."""
        self._kept.put(_sent(notice, address), {}, now + REMEMBER)


def _sent(notice: str, address: str) -> str:
    return f"mailed/{_id(notice, address)}"


def _id(notice: str, address: str) -> str:
    return sha256(f"{notice} {address}".encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Smtp:
    """A mail server: smtp (with STARTTLS where it is offered) or smtps; the sender of everything."""

    host: str
    port: int
    tls: bool
    user: str
    password: str
    sender: str

    def connect(self) -> smtplib.SMTP:
        """A session that is ready to send. Raises SMTPException or OSError; a password never goes in the clear."""
        context = ssl.create_default_context()
        if self.tls:
            made: smtplib.SMTP = smtplib.SMTP_SSL(self.host, self.port, timeout=SMTP_SECONDS, context=context)
        else:
            made = smtplib.SMTP(self.host, self.port, timeout=SMTP_SECONDS)
        try:
            made.ehlo()
            if not self.tls and made.has_extn("starttls"):
                made.starttls(context=context)
                made.ehlo()
            elif not self.tls and self.user and not _loopback(self.host):
                raise smtplib.SMTPException("the mail server offers no TLS, so it is not given the password")
            if self.user:
                made.login(self.user, self.password)
        except (smtplib.SMTPException, OSError):
            made.close()
            raise
        return made


def smtp_of(url: str, sender: str) -> Smtp:
    """The mail server of a URL like smtps://user:password@mail.example.org:465."""
    parts = urlsplit(url)
    tls = parts.scheme == "smtps"
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return Smtp(parts.hostname or "", parts.port or (465 if tls else 587), tls, user, password, sender)


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Mailer:
    """Sends what waits. `decrypt` opens a sealed link. Threads may share it."""

    def __init__(self, server: Server, waiting: Waiting, smtp: Smtp, decrypt: Callable[[str], str]) -> None:
        self._server = server
        self._decrypt = decrypt
        self._waiting = waiting
        self._smtp = smtp

    def sweep(self, put: Put) -> None:
        """Enqueues a job for each notice that is due."""
        due = self._waiting.due(self._server.now())
        if due:
            put(JOB, [(notice,) for notice in due])

    def send(self, notice: str) -> None:
        """The job: sends one notice to each administrator that it has not gone to, one process at a time."""
        store, owner = self._server.store, self._server.new_id()
        if store.lease(f"mail/{notice}", owner, LEASE_SECONDS) is None:
            return
        try:
            value = self._waiting.get(notice, self._server.now())
            if value is not None and value["next"] <= self._server.now():
                self._send(notice, value)
        finally:
            store.release(f"mail/{notice}", owner)

    def _send(self, notice: str, value: dict[str, Any]) -> None:
        now = self._server.now()
        try:
            if value.get("link"):
                self._deliver_link(notice, value)
            else:
                found = self._server.store.read(everything(REGISTRY), "Communication", notice)
                if found is None:
                    raise OSError("the notice is not there yet")
                if not found.deleted:
                    self._deliver(notice, found.resource())
        except (smtplib.SMTPException, OSError) as trouble:
            facts = {"notice": notice, "attempts": int(value["attempts"]) + 1, "fault": type(trouble).__name__}
            log.warning("a notice could not be sent by e-mail and is tried again", extra={"facts": facts})
            self._waiting.later(value, now)
        else:
            self._waiting.done(notice)

    def _deliver_link(self, notice: str, value: dict[str, Any]) -> None:
        """Sends a link to set a password to the one it is for."""
        found = self._server.store.live(everything(REGISTRY), "User", value["user"])
        if found is None:
            return
        address, link = str(found.resource()["email"]), self._decrypt(value["link"])
        text = f"Set your password here, until {value['until']:%Y-%m-%d %H:%M} UTC; it works once:\n\n{link}\n"
        self._send_all(notice, {address: letter(LINK_SUBJECT, text, notice, address, self._smtp.sender)})

    def _deliver(self, notice: str, resource: Resource) -> None:
        organizations = [target(each, "Organization") for each in resource.get("recipient", ())]
        wanted = [a for id in organizations for a in administrators(self._server, id)]
        sender, url = self._smtp.sender, self._server.public_url
        self._send_all(notice, {address: written(resource, address, sender, url) for address in wanted})

    def _send_all(self, notice: str, messages: Mapping[str, EmailMessage]) -> None:
        """Sends each message to its address, where it has not gone before."""
        missing = [address for address in messages if not self._waiting.sent(notice, address, self._server.now())]
        if not missing:
            return
        with self._smtp.connect() as session:
            for address in missing:
                message = messages[address]
                message["Date"] = format_datetime(self._server.now())
                try:
                    session.send_message(message, self._smtp.sender, [address])
                except smtplib.SMTPRecipientsRefused as refusal:
                    code = max((answer[0] for answer in refusal.recipients.values()), default=0)
                    if code < 500:
                        raise
                    log.warning("a mail server refuses an address", extra={"facts": {"notice": notice, "code": code}})
                except smtplib.SMTPNotSupportedError:  # an address that is not ASCII, and a server that takes no other
                    log.warning("a mail server cannot take an address", extra={"facts": {"notice": notice}})
                self._waiting.note(notice, address, self._server.now())


def administrators(server: Server, organization: str) -> list[str]:
    """The e-mail addresses of an organization's active administrators, a hundred at most."""
    clause = References("organization", frozenset({f"Organization/{organization}"}))
    search = compile_search(server.store, everything(REGISTRY), "User", [clause], None) if organization else None
    found = find(server.store, search, (), 1000).matches if search else ()
    users = [version.resource() for version in found]
    mine = [str(user["email"]) for user in users if user.get("role") == "admin" and user.get("active") is not False]
    return mine[:MOST_ADDRESSES]


def written(resource: Resource, address: str, sender: str, url: str) -> EmailMessage:
    """The e-mail of a notice: its sentence, and where to read more."""
    sentence = " ".join(str(resource["payload"][0]["contentString"]).split())
    text = f"{sentence}\n\nSign in to read more: {url}\n"
    return letter(sentence, text, str(resource["id"]), address, sender)


def letter(subject: str, text: str, id: str, address: str, sender: str) -> EmailMessage:
    """An e-mail of ours; the same `id` and address give the same Message-ID."""
    # What looks like an encoded word would be decoded, and may hold the end of a line: a header of somebody else's.
    subject = "".join(each if each.isprintable() else " " for each in subject).replace("=?", "= ?")
    message = EmailMessage()
    message["From"], message["To"] = sender, address
    message["Subject"] = subject if len(subject) <= MOST_SUBJECT else subject[: MOST_SUBJECT - 1] + "…"
    message["Message-ID"] = f"<{_id(id, address)}@{_domain(sender)}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text)
    return message


def _domain(sender: str) -> str:
    return sender.rpartition("@")[2].strip(" >") or "localhost"
