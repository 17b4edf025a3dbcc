"""Metrics as text: OpenMetrics 1.0, and Prometheus' own format 0.0.4 for who does not ask for it. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from fhirserver.meters.catalogue import CATALOGUE, PREFIX, SECONDS, Metric
from fhirserver.meters.meter import Meter

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PLAIN = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})

Sample = tuple[str, tuple[tuple[str, str], ...], float]
"""A gauge: the metric's name, its labels by name, its value."""


def exposition(meter: Meter, gauges: Iterable[Sample], *, openmetrics: bool) -> str:
    """All counts and times of a meter, and the gauges, each family once with its type and meaning."""
    held, found = meter.held(), defaultdict[str, list[str]](list)
    known = {each.name: each for each in CATALOGUE}
    for (name, *values), value in held["counts"]:
        found[name].append(_line(f"{name}_total", _labels(known.get(name), values), value))
    for (name, *values), times in held["times"]:
        found[name] += _histogram(name, _labels(known.get(name), values), times)
    for name, of, value in gauges:
        found[name].append(_line(name, of, value))
    lines = [line for each in CATALOGUE for line in (*_head(each, openmetrics), *found[each.name])]
    return "\n".join([*lines, *(["# EOF"] if openmetrics else [])]) + "\n"


def _labels(metric: Metric | None, values: Sequence[str]) -> list[tuple[str, str]]:
    return list(zip(metric.labels, values, strict=False)) if metric else []


def _head(metric: Metric, openmetrics: bool) -> Iterator[str]:
    # The old format names a counter as its samples are named.
    name = PREFIX + metric.name + ("_total" if metric.kind == "counter" and not openmetrics else "")
    yield f"# HELP {name} {metric.says}"
    yield f"# TYPE {name} {metric.kind}"


def _histogram(name: str, labels: Sequence[tuple[str, str]], times: Sequence[float]) -> Iterator[str]:
    seen = 0.0
    for bound, count in zip((*map(str, SECONDS), "+Inf"), times[:-1], strict=True):
        seen += count
        yield _line(f"{name}_bucket", [*labels, ("le", bound)], seen)
    yield _line(f"{name}_count", labels, seen)
    yield _line(f"{name}_sum", labels, times[-1])


def _line(name: str, labels: Iterable[tuple[str, str]], value: float) -> str:
    inside = ",".join(f'{key}="{text.translate(_ESCAPES)}"' for key, text in labels)
    shown = str(int(value)) if value == int(value) else repr(round(value, 6))
    return f"{PREFIX}{name}{f'{{{inside}}}' if inside else ''} {shown}"
