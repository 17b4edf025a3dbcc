"""One JSON line a figure, printed and appended to bench/out/latest.jsonl."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

OUT = Path(__file__).with_name("out")


def line(
    name: str,
    value: float,
    unit: str,
    p50: float | None,
    p99: float | None,
    cpu: tuple[float, float] | None,
    beside: dict[str, Any],
) -> None:
    """Writes a figure. `cpu`: microseconds of the server and of mongod for one request; `beside`: what it is to be
    compared with.
    """
    said = {
        "name": name,
        "value": round(value, 3),
        "unit": unit,
        "p50_ms": p50,
        "p99_ms": p99,
        "cpu_us_server": round(cpu[0]) if cpu else None,
        "cpu_us_mongod": round(cpu[1]) if cpu else None,
        "beside": beside,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    OUT.mkdir(exist_ok=True)
    with (OUT / "latest.jsonl").open("a") as file:
        file.write(json.dumps(said) + "\n")
    print(json.dumps(said), flush=True)
