"""UCUM units in canonical form, so that 1 g and 1000 mg are found by one another.

FHIR R4: search#quantity; UCUM. Conversion is done by the libraries ucumvert and pint, which take 0.4 s to load and
half a millisecond a unit: they are loaded when the first unit is met that is not in the table of common ones, and
every unit is asked once. Not converted: arbitrary units such as [IU] (no two are commensurable), logarithmic ones
such as pH, and what the library does not know; these are found by their own code only.
"""

from __future__ import annotations

import logging
import re
from functools import cache, lru_cache
from importlib import import_module
from typing import Any

UCUM = "http://unitsofmeasure.org"

_log = logging.getLogger(__name__)

# UCUM's arbitrary units (isArbitrary), and the special ones whose scale is not linear.
_APART = re.compile(
    r"\[(?:IU|iU|arb'U|USP'U|GPL'U|MPL'U|APL'U|beth'U|anti'Xa'U|todd'U|dye'U|smgy'U|bdsk'U|ka'U|knk'U|mclg'U|tb'U"
    r"|CCID_50|TCID_50|EID_50|PFU|FFU|CFU|BAU|AU|Amb'a'1'U|D'ag'U|IR|FEU|ELU|EU|LPFU?|Lf|S|GPLU|hp'?_[XCMQ]"
    r"|hnsf'U|MET|pH|p'diop|m/s2/Hz\^0\.5)\]|\[kp_[CXMQ]\]|\bB(?:\[[^\]]*\])?\b|\bNep\b|\bbit_s\b|%\[slope\]"
)
_LENGTH = 60
# Powers and factors that nobody measures in, over which the libraries would calculate for minutes.
_HUGE = re.compile(r"\d{7}|[*^]\d{3}|[+-]\d{3}|[A-Za-z\]}'\")][+-]?\d{2}")
_KELVIN = "K"

# Unit -> (factor, canonical unit), where value * factor is in the canonical unit; made by `_ask` and checked by a test.
COMMON: dict[str, tuple[float, str]] = {
    "kg": (1.0, "kg"),
    "g": (0.001, "kg"),
    "mg": (1e-06, "kg"),
    "ug": (1e-09, "kg"),
    "ng": (1e-12, "kg"),
    "[lb_av]": (0.45359237, "kg"),
    "m": (1.0, "m"),
    "cm": (0.01, "m"),
    "mm": (0.001, "m"),
    "[in_i]": (0.0254, "m"),
    "%": (0.01, "1"),
    "1": (1.0, "1"),
    "s": (1.0, "s"),
    "min": (60.0, "s"),
    "h": (3600.0, "s"),
    "d": (86400.0, "s"),
    "wk": (604800.0, "s"),
    "a": (31557600.0, "s"),
    "/min": (0.0166666666667, "s^-1"),
    "{beats}/min": (0.0166666666667, "s^-1"),
    "{breaths}/min": (0.0166666666667, "s^-1"),
    "mm[Hg]": (133.322387415, "kg.m^-1.s^-2"),
    "L": (0.001, "m^3"),
    "mL": (1e-06, "m^3"),
    "dL": (0.0001, "m^3"),
    "g/L": (1.0, "kg.m^-3"),
    "g/dL": (10.0, "kg.m^-3"),
    "mg/dL": (0.01, "kg.m^-3"),
    "mg/L": (0.001, "kg.m^-3"),
    "ug/L": (1e-06, "kg.m^-3"),
    "ng/mL": (1e-06, "kg.m^-3"),
    "mol/L": (1000.0, "m^-3.mol"),
    "mmol/L": (1.0, "m^-3.mol"),
    "umol/L": (0.001, "m^-3.mol"),
    "nmol/L": (1e-06, "m^-3.mol"),
    "pmol/L": (1e-09, "m^-3.mol"),
    "kg/m2": (1.0, "kg.m^-2"),
}


def canonical(value: float, code: str) -> tuple[float, str] | None:
    """The value in the canonical unit, at 12 significant digits, and that unit; None for a unit that is not
    converted."""
    found = COMMON.get(code)
    if found is not None:
        return _round(value * found[0]), found[1]
    linear = _linear(code)
    if linear is None:
        return None
    factor, offset, unit = linear
    return _round(value * factor + offset), unit


def _round(value: float) -> float:
    return float(f"{value:.12g}")


@lru_cache(maxsize=4096)
def _linear(code: str) -> tuple[float, float, str] | None:
    if not code or len(code) > _LENGTH or _APART.search(code) or _HUGE.search(code):
        return None
    try:
        return _ask(code)
    except Exception:  # noqa: BLE001 - whatever a hostile unit provokes in the libraries: it is then found by its own code only
        _log.debug("a unit is not converted", exc_info=True)
        return None


def _ask(code: str) -> tuple[float, float, str] | None:
    """(factor, offset, canonical unit) by the libraries: what 0, 1 and 2 of the unit are says whether it is linear."""
    registry = _registry()
    unit = registry.from_ucum(code).units
    zero, one, two = (registry.Quantity(float(n), unit).to_base_units() for n in (0, 1, 2))
    offset, factor = float(zero.magnitude), float(one.magnitude) - float(zero.magnitude)
    magnitude = registry.from_ucum(code).magnitude
    if abs(float(two.magnitude) - offset - 2 * factor) > 1e-9 * max(1.0, abs(factor)):
        return None
    name = _name(zero.unit_items())
    return _round(factor * float(magnitude)), _round(offset), name


def _name(items: Any) -> str:
    short = {
        "kilogram": "kg",
        "meter": "m",
        "second": "s",
        "mole": "mol",
        "kelvin": _KELVIN,
        "ampere": "A",
        "candela": "cd",
    }
    parts = []
    for unit, exponent in sorted(items):
        power = f"{float(exponent):g}"
        parts.append(short.get(unit, unit) + ("" if power == "1" else f"^{power}"))
    return ".".join(parts) or "1"


@cache
def _registry() -> Any:
    return import_module("ucumvert").PintUcumRegistry()
