"""Structured logs: one line an event on standard error, as JSON or as text, with the id of the request it belongs to.

What a line may hold is what the code names: a constant message and `extra={"facts": {...}}` with ids, counts, codes and
durations. Never a resource's content, a query's text or a header: these name patients. For the same reason an exception
is logged by its type and the places it came through, not by its message.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

request_id: ContextVar[str] = ContextVar("request_id", default="")


def configure(level: str, style: str, process: str) -> None:
    """Send every log record of this process, named `process`, to standard error. `style` is `json` or `text`."""
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(_Lines(style, process))
    root = logging.getLogger()
    root.handlers[:] = [lines]
    root.setLevel(level.upper())
    for chatty in ("pymongo", "urllib3", "rq", "werkzeug", "_granian", "granian"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))


class _Lines(logging.Formatter):
    def __init__(self, style: str, process: str) -> None:
        super().__init__()
        self._write = _as_text if style == "text" else _as_json
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        facts: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id.get():
            facts["request"] = request_id.get()
        facts |= getattr(record, "facts", {})
        if record.exc_info and record.exc_info[0]:
            facts["exception"] = record.exc_info[0].__name__
            facts["at"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in _frames(record)]
        return self._write(facts)


def _frames(record: logging.LogRecord) -> traceback.StackSummary:
    return traceback.extract_tb(record.exc_info[2] if record.exc_info else None)


def _as_json(facts: dict[str, Any]) -> str:
    return json.dumps(facts, ensure_ascii=False, default=str)


def _as_text(facts: dict[str, Any]) -> str:
    start = f"{facts.pop('time')} {facts.pop('level').upper():7} {facts.pop('process')} {facts.pop('logger')}"
    message = facts.pop("message").replace("\n", "\\n")
    return " ".join([start, message, *(f"{name}={json.dumps(value, default=str)}" for name, value in facts.items())])
