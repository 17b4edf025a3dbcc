"""How MongoDB goes about a search: the indexes of its winning plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fhirserver.search.query import SortKey
from fhirserver.store.database import translated
from fhirserver.store.keyset import Keyset
from fhirserver.store.resources import Store
from fhirserver.store.search import Search, narrowed, order_of

BASE = {"_id_": "the ids of the organization's resources"}


@dataclass(frozen=True, slots=True)
class Plan:
    """The indexes it goes by (none: it looks at every resource), and whether it must sort what it finds."""

    indexes: tuple[str, ...]
    sorts: bool


def plan(store: Store, search: Search, sort: Sequence[SortKey], count: int) -> Plan:
    """What the first page of a search is found by. Nothing is read."""
    order = order_of(store, search, sort, None)
    stage = next(iter(order.stages(None, False)))
    base = search.filter if isinstance(order, Keyset) else search.around
    asked: dict[str, Any] = {"find": search.type, "filter": narrowed(base, stage.filters), "limit": max(count, 1)}
    if stage.hint:
        asked["hint"] = dict(stage.hint)
    elif stage.sort:
        asked["sort"] = dict(stage.sort)
    with translated():
        explained = store.database.raw.command("explain", asked, verbosity="queryPlanner")
    steps = list(_steps(explained["queryPlanner"]["winningPlan"]))
    names = [BASE.get(name, name) for kind, name in steps if kind in ("IXSCAN", "IDHACK")]
    kinds = {kind for kind, _ in steps}
    return Plan(tuple(dict.fromkeys(names)), bool(stage.pipeline) or "SORT" in kinds)


def _steps(plan: Any) -> Iterator[tuple[str, str]]:
    """Stage and index of every step of a plan."""
    if isinstance(plan, dict):
        if "stage" in plan:
            yield plan["stage"], plan.get("indexName", "_id_" if plan["stage"] == "IDHACK" else "")
        for value in plan.values():
            yield from _steps(value)
    elif isinstance(plan, list):
        for value in plan:
            yield from _steps(value)
