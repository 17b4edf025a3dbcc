"""When a delivery is tried again: exponential, with jitter, until its hours are over. Pure: chance is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime


@dataclass(frozen=True, slots=True)
class Schedule:
    """first: seconds before the second attempt; each further wait is `factor` times longer, up to `most` seconds.

    jitter: the part of a wait that chance adds or takes. hours: how long a delivery is tried at all. trips: failures in
    a row after which an endpoint is tried with one delivery at a time, and left alone in between for at most `pause` s.
    error_hours: how long an endpoint may fail before its subscription is in error.
    """

    first: float = 5.0
    factor: float = 2.0
    most: float = 3600.0
    jitter: float = 0.2
    hours: float = 72.0
    trips: int = 3
    pause: float = 300.0
    error_hours: float = 24.0

    def wait(self, attempts: int, chance: float) -> float:
        """Seconds to wait after that many attempts (1 or more). `chance` is from 0 to 1."""
        exponent = min(attempts - 1, 60)
        return min(self.first * self.factor**exponent, self.most) * (1 + self.jitter * (2 * chance - 1))

    def rest(self, failures: int, chance: float) -> float:
        """Seconds to leave an endpoint alone after that many failures in a row; 0 before it `trips`."""
        return 0.0 if failures < self.trips else min(self.wait(failures - self.trips + 1, chance), self.pause)

    def over(self, queued: datetime, next_attempt: datetime, hours: float | None) -> bool:
        """Whether an attempt at that time would be too late; `hours` are the subscription's own, None for the usual."""
        return next_attempt - queued > timedelta(hours=self.hours if hours is None else hours)


MOST_ASKED = 24 * 3600.0


def asked(retry_after: str, now: datetime) -> float:
    """The seconds a Retry-After header asks for, as a number or a date; 0 for none or nonsense, a day at most."""
    if retry_after.isascii() and retry_after.isdigit():
        return min(float(retry_after), MOST_ASKED)
    try:
        instant = parsedate_to_datetime(retry_after)
    except (ValueError, TypeError, IndexError):
        return 0.0
    instant = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    return min(max((instant - now).total_seconds(), 0.0), MOST_ASKED)
