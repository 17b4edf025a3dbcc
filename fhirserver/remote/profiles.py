"""The servers that `fhirserver api` knows: where each is and how to authenticate, in a file that only its owner reads.

The file lies in the user's configuration directory; so do the access tokens obtained, until they expire.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

AUTHENTICATION = ("none", "basic", "bearer", "client_credentials")
MOST_TOKENS = 50


class WrongProfile(click.ClickException):
    """What a profile, or the file of them, says cannot be used."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Profile:
    """One server. `secret` is a password, an access token or a client secret, as `auth` says."""

    base_url: str
    auth: str = "none"
    user: str = ""
    """The user name, or the client id."""
    secret: str = field(default="", repr=False)
    key_file: str = ""
    """A private key (PEM or JWK) with which the client signs instead of sending a secret."""
    key_id: str = ""
    token_url: str = ""
    scope: str = ""
    ca_file: str = ""

    @property
    def fingerprint(self) -> str:
        """What a token was obtained with: a change of any part asks for a new one."""
        return sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Profiles:
    """All of them by name, and the one in use."""

    by_name: Mapping[str, Profile] = field(default_factory=dict)
    current: str = ""

    def named(self, name: str) -> Profile:
        """The profile of a name, or the one in use. Raises WrongProfile where there is none."""
        if not name and not self.current:
            raise WrongProfile(
                "There is no profile yet: make one with `fhirserver api profile add`, or give --base-url."
            )
        if (name or self.current) not in self.by_name:
            raise WrongProfile(f"There is no profile {name or self.current}: see `fhirserver api profile list`.")
        return self.by_name[name or self.current]

    def using(self, name: str) -> Profiles:
        """These with that one in use."""
        self.named(name)
        return replace(self, current=name)

    def with_profile(self, name: str, profile: Profile) -> Profiles:
        """These with another; the first is in use at once."""
        return Profiles({**self.by_name, name: profile}, self.current or name)

    def without(self, name: str) -> Profiles:
        """These without one."""
        self.named(name)
        rest = {each: profile for each, profile in self.by_name.items() if each != name}
        return Profiles(rest, "" if self.current == name else self.current)


def folder() -> Path:
    """Where the files lie."""
    return Path(click.get_app_dir("fhirserver"))


def load() -> Profiles:
    """The profiles of this user. Raises WrongProfile for a file that others can read or that holds something else."""
    found = _read("api.json")
    known = {each.name for each in fields(Profile)}
    try:
        profiles = {
            str(name): Profile(**{key: str(value) for key, value in given.items() if key in known})
            for name, given in found.get("profiles", {}).items()
        }
    except (AttributeError, TypeError):
        raise WrongProfile(f"{folder() / 'api.json'} does not hold profiles: mend or remove it.") from None
    return Profiles(profiles, str(found.get("current", "")))


def save(profiles: Profiles) -> None:
    """Writes the profiles, for the owner's eyes only."""
    shown = {
        name: {key: value for key, value in asdict(profile).items() if value}
        for name, profile in profiles.by_name.items()
    }
    _write("api.json", {"current": profiles.current, "profiles": shown})


def checked_base(url: str) -> str:
    """A base URL without its last slash. Raises WrongProfile for what is none."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise WrongProfile(f"{url} is not the base URL of a server, like https://fhir.example.org/fhir.")
    return url.rstrip("/")


def cached_token(profile: Profile, now: float) -> str:
    """An access token obtained before that still lasts, or ""."""
    held = _read("tokens.json").get(profile.fingerprint)
    lasts = isinstance(held, dict) and isinstance(held.get("until"), int | float) and held["until"] > now
    return str(held.get("token", "")) if lasts and isinstance(held, dict) else ""


def remember_token(profile: Profile, token: str, until: float, now: float) -> None:
    """Keeps an access token until it expires; with `token` empty, forgets the one that was kept."""
    held = {
        name: each
        for name, each in _read("tokens.json").items()
        if isinstance(each, dict) and isinstance(each.get("until"), int | float) and each["until"] > now
    }
    held.pop(profile.fingerprint, None)
    kept = dict(list(held.items())[-MOST_TOKENS:])
    _write("tokens.json", kept | ({profile.fingerprint: {"token": token, "until": until}} if token else {}))


def _read(name: str) -> dict[str, Any]:
    path = folder() / name
    try:
        if path.stat().st_mode & 0o077:
            raise WrongProfile(f"{path} holds secrets and others can read it: chmod 600 {path}")
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise WrongProfile(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise WrongProfile(f"{path} does not hold a JSON object: mend or remove it.")
    return found


def _write(name: str, value: Mapping[str, Any]) -> None:
    path = folder() / name
    fresh = path.with_name(f"{name}.{secrets.token_hex(4)}")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
    os.replace(fresh, path)
