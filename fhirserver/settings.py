"""Everything that can be configured: one frozen object, read once from the environment, each variable described once.

docs/operate/settings.md is generated from this module. Only the entry points read it; every room below takes plain
values.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PREFIX = "FHIRSERVER_"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class SettingsError(Exception):
    """The environment says something that cannot be; the text lists every fault, one a line."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(["these settings cannot be used:", *(f"  - {fault}" for fault in faults)]))


class Secret:
    """A text that is never printed: ask for it with `reveal()`. An empty one is false."""

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "Secret(********)" if self._text else "Secret()"

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("a Secret is not pickled")


def _setting(default: Any, cast: Callable[[str], Any], says: str) -> Any:
    return field(default=default, metadata={"cast": cast, "help": says})


def _text(text: str) -> str:
    return text


def _file(text: str) -> str:
    if text and not Path(text).is_file():
        raise ValueError("is not a file")
    return text


def _whole(low: int, high: int) -> Callable[[str], int]:
    def cast(text: str) -> int:
        if not text.isascii() or not text.isdecimal() or not low <= int(text[:18]) <= high:
            raise ValueError(f"is not a whole number from {low} to {high}")
        return int(text)

    return cast


def _number(low: float, high: float) -> Callable[[str], float]:
    def cast(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise ValueError(f"is not a number from {low:g} to {high:g}")
        return value

    return cast


def _one_of(*words: str) -> Callable[[str], str]:
    def cast(text: str) -> str:
        if text not in words:
            raise ValueError(f"is not one of {', '.join(words)}")
        return text

    return cast


def _url(*schemes: str) -> Callable[[str], str]:
    def cast(text: str) -> str:
        if text and (urlsplit(text).scheme not in schemes or not urlsplit(text).netloc):
            raise ValueError(f"is not a URL with scheme {' or '.join(schemes)}")
        return text.rstrip("/")

    return cast


def _secret_url(*schemes: str) -> Callable[[str], Secret]:
    check = _url(*schemes)

    def cast(text: str) -> Secret:
        check(text)
        return Secret(text)

    return cast


def _master_key(text: str) -> Secret:
    if text and len(text) < 32:
        raise ValueError("is shorter than 32 characters")
    return Secret(text)


def _networks(text: str) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(part) for part in _words(text))
    except ValueError as error:
        raise ValueError(f"is not a list of networks such as 10.0.0.0/8,127.0.0.1/32 ({error})") from None


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one installation. Field `x_y` is the environment variable FHIRSERVER_X_Y."""

    data: Path = _setting(
        Path("var"),
        Path,
        "Folder of this installation: keys, logs and the data of the embedded servers. Made if it is missing.",
    )
    host: str = _setting("127.0.0.1", _text, "Address on which the web server listens.")
    port: int = _setting(8080, _whole(1, 65535), "Port on which the web server listens.")
    public_url: str = _setting(
        "",
        _url("http", "https"),
        "The URL under which callers reach the web server; every absolute URL in an answer, a token or a notification "
        "begins with it. Empty: `http://host:port`.",
    )
    trusted_proxies: tuple[Network, ...] = _setting(
        (),
        _networks,
        "Networks of the reverse proxies in front of the web server, separated by commas: what these say in "
        "X-Forwarded-For is the caller's address. Empty: the header is not looked at.",
    )
    mllp_host: str = _setting("127.0.0.1", _text, "Address on which the HL7v2 (MLLP) listener listens.")
    mllp_port: int = _setting(2575, _whole(1, 65535), "Port on which the HL7v2 (MLLP) listener listens.")
    mllp_certificate: str = _setting(
        "",
        _file,
        "File (PEM) of the certificate of the HL7v2 listener, with its chain: it speaks TLS then. Empty: no TLS.",
    )
    mllp_key: str = _setting("", _file, "File (PEM) of the key of `FHIRSERVER_MLLP_CERTIFICATE`. Empty: the same file.")
    mllp_client_ca: str = _setting(
        "",
        _file,
        "File (PEM) of the authorities whose client certificates HL7v2 senders must show. Empty: none is asked for.",
    )
    mllp_connections: int = _setting(2_000, _whole(1, 100_000), "HL7v2 connections at once; one more is closed.")
    mllp_connections_per_peer: int = _setting(
        500, _whole(1, 100_000), "HL7v2 connections at once from one address; one more is closed."
    )
    mllp_idle: int = _setting(
        3_600,
        _whole(1, 604_800),
        "Seconds that an HL7v2 connection may be silent between messages before it is closed.",
    )
    workers: int = _setting(2, _whole(1, 256), "Web worker processes.")
    threads: int = _setting(8, _whole(1, 256), "Threads in each web worker: requests it works on at once.")
    queue_workers: int = _setting(
        2, _whole(1, 256), "Worker processes that map messages and deliver notifications from the queue."
    )
    mongo_url: Secret = _setting(
        Secret(),
        _secret_url("mongodb", "mongodb+srv"),
        "The MongoDB replica set to use. Empty: `fhirserver up` starts an embedded mongod.",
    )
    mongo_database: str = _setting("fhirserver", _text, "Name of the database in MongoDB.")
    mongo_cache_gb: float = _setting(
        0.5,
        _number(0.25, 1024),
        "Memory for the cache of the embedded mongod, in GB. A cluster of your own ignores it.",
    )
    redis_url: Secret = _setting(
        Secret(),
        _secret_url("redis", "rediss"),
        "The Redis or Valkey server to use. Empty: `fhirserver up` starts an embedded one.",
    )
    master_key: Secret = _setting(
        Secret(),
        _master_key,
        "Encrypts signing keys and webhook secrets in the database; at least 32 characters. Keep a copy: without it "
        "they are lost. Empty: `fhirserver up` makes one and keeps it in the file `master.key` of the data folder.",
    )
    former_master_key: Secret = _setting(
        Secret(),
        _master_key,
        "The master key before `FHIRSERVER_MASTER_KEY`, while that is changed: what was encrypted with it can still be "
        "read. `fhirserver prepare` and `fhirserver master-key rotate` encrypt it anew. Empty: there is none.",
    )
    webhook_allow: tuple[Network, ...] = _setting(
        (),
        _networks,
        "Networks that are not public and yet may receive notifications, separated by commas, such as `10.1.0.0/16`.",
    )
    max_body: int = _setting(
        16 * 1024 * 1024,
        _whole(1024, 1 << 30),
        "Largest HTTP request body, in bytes; a larger one is refused with 413.",
    )
    mllp_max_message: int = _setting(
        4 * 1024 * 1024, _whole(1024, 1 << 28), "Largest HL7v2 message over MLLP, in bytes; a larger one is refused."
    )
    page_size: int = _setting(50, _whole(1, 1000), "Resources on a page of search results where `_count` is not given.")
    page_size_max: int = _setting(1000, _whole(1, 10_000), "Most resources on a page, whatever `_count` says.")
    query_time_limit: int = _setting(
        10_000, _whole(10, 600_000), "Milliseconds a database query may take before it is given up."
    )
    token_lifetime: int = _setting(3600, _whole(10, 86_400), "Seconds for which an access token is good.")
    key_rotation_days: int = _setting(
        90, _whole(0, 3650), "Days after which a new key signs tokens. 0: only when `fhirserver keys rotate` makes one."
    )
    audit_retention_days: int = _setting(
        0, _whole(0, 36_500), "Days for which audit records are kept, at least. 0: for ever."
    )
    message_retention_days: int = _setting(
        0,
        _whole(0, 36_500),
        "Days after which the content of HL7v2 messages that were processed is purged. What waits or failed is kept, "
        "and so is what a message was, with its control id, hash and status. 0: never.",
    )
    delivery_retention_days: int = _setting(
        0,
        _whole(0, 36_500),
        "Days after which what notifications told of, and what was answered, is purged of those that were delivered or "
        "skipped. What waits or was given up is kept. 0: never.",
    )
    smtp_url: Secret = _setting(
        Secret(),
        _secret_url("smtp", "smtps"),
        "The mail server that sends notices to administrators, as `smtp://user:password@host:587` (STARTTLS where it "
        "is offered) or `smtps://...:465`. Empty: no e-mail is sent.",
    )
    mail_from: str = _setting("", _text, "The sender of e-mail, as `exchange@example.org`. Needed with a mail server.")
    cors_origins: tuple[str, ...] = _setting(
        ("*",), _words, "Origins whose browser applications may call, separated by commas. `*`: every origin."
    )
    metrics_host: str = _setting("127.0.0.1", _text, "Address on which metrics are told.")
    metrics_port: int = _setting(
        0, _whole(0, 65535), "Port on which the relay's process tells metrics to Prometheus. 0: on none."
    )
    metrics_token: Secret = _setting(
        Secret(),
        Secret,
        "The bearer token without which nobody is told metrics. Empty: everybody who reaches the port is.",
    )
    metrics_organizations: str = _setting(
        "no", _one_of("no", "yes"), "Whether metrics tell apart, by their ids, organizations for which something waits."
    )
    log_level: str = _setting("info", _one_of("debug", "info", "warning", "error"), "The least level that is logged.")
    log_format: str = _setting(
        "json", _one_of("json", "text"), "How log lines on standard error look: a JSON object each, or text for people."
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **instead: object) -> Settings:
        """The settings that these environment variables say (the process's own by default). Raises SettingsError.

        `instead` names fields whose value, where it is not None, counts instead of the variable's.
        """
        given = {name: text for name, text in (os.environ if environ is None else environ).items() if _is_ours(name)}
        given |= {PREFIX + name.upper(): str(value) for name, value in instead.items() if value is not None}
        known = {variable(each): each for each in fields(cls)}
        faults = [f"{name} is not a setting; `fhirserver settings` lists them" for name in sorted(given.keys() - known)]
        values: dict[str, Any] = {}
        for name in sorted(given.keys() & known.keys()):
            if not given[name].strip() and not isinstance(known[name].default, tuple):
                continue  # an empty variable is one that is not given; an empty list is a list
            try:
                values[known[name].name] = known[name].metadata["cast"](given[name].strip())
            except ValueError as error:
                shown = "its value" if isinstance(known[name].default, Secret) else repr(given[name])
                faults.append(f"{name}: {shown} {error}")
        settings = cls(**values)
        if settings.page_size > settings.page_size_max:
            faults.append(f"{PREFIX}PAGE_SIZE is greater than {PREFIX}PAGE_SIZE_MAX")
        if settings.smtp_url and "@" not in settings.mail_from:
            faults.append(f"{PREFIX}MAIL_FROM is not an address, and {PREFIX}SMTP_URL needs one")
        if not settings.mllp_certificate and (settings.mllp_key or settings.mllp_client_ca):
            faults.append(f"{PREFIX}MLLP_CERTIFICATE is needed where the key or the client authorities are given")
        if faults:
            raise SettingsError(faults)
        return settings if settings.public_url else replace(settings, public_url=_own_url(settings))

    def environ(self) -> dict[str, str]:
        """The environment for a child process that is to have these settings, secrets included."""
        return bare_environ() | self.variables()

    def variables(self) -> dict[str, str]:
        """The environment variables that say these settings, secrets included."""
        return {variable(each): _plain(getattr(self, each.name)) for each in fields(self)}

    def rows(self) -> list[tuple[str, str, str]]:
        """Variable, value in force (secrets masked) and meaning of each setting."""
        return [(variable(each), _shown(getattr(self, each.name)), each.metadata["help"]) for each in fields(self)]


def variable(setting: Field[Any]) -> str:
    """The environment variable of a field of Settings."""
    return PREFIX + setting.name.upper()


def bare_environ() -> dict[str, str]:
    """The environment of this process without our settings: for a child process that must not have them."""
    return {name: text for name, text in os.environ.items() if not _is_ours(name)}


def folder(name: str) -> Path:
    """The folder `profiles`, `capability` or `mappings`: at the top of a checkout, or inside the installed package."""
    package = Path(__file__).resolve().parent
    installed = package / "_data" / name
    return installed if installed.is_dir() else package.parent / name


def _is_ours(name: str) -> bool:
    return name.startswith(PREFIX)


def _own_url(settings: Settings) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - read, not bound
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def _plain(value: Any) -> str:
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return str(value)


def _shown(value: Any) -> str:
    if isinstance(value, Secret):
        return "********" if value else ""
    return _plain(value)
