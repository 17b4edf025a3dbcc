"""UCUM units in canonical form, so that 1 g and 1000 mg are found by one another.

FHIR R4: search#quantity; UCUM. Conversion is done by the libraries ucumvert and pint, which take 0.4 s to load and
half a millisecond a unit: they are loaded when the first unit is met that is not in the table of common ones, and
every unit is asked once. Not converted: arbitrary units such as [IU] (no two are commensurable), logarithmic ones
such as pH, and what the library does not know; these are found by their own code only.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
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

# Canonical unit -> common unit -> factor: value * factor is in the canonical unit. A test compares it with `_ask`.
_COMMON: Mapping[str, Mapping[str, float]] = {
    "kg": {
        "kg": 1.0,
        "g": 0.001,
        "mg": 1e-06,
        "ug": 1e-09,
        "ng": 1e-12,
        "pg": 1e-15,
        "[lb_av]": 0.45359237,
        "[oz_av]": 0.028349523125,
        "t": 1000.0,
    },
    "m": {"m": 1.0, "cm": 0.01, "mm": 0.001, "um": 1e-06, "nm": 1e-09, "[in_i]": 0.0254, "[ft_i]": 0.3048},
    "1": {"1": 1.0, "%": 0.01, "mg/g": 0.001, "ug/g": 1e-06},
    "s": {
        "s": 1.0,
        "ms": 0.001,
        "min": 60.0,
        "h": 3600.0,
        "d": 86400.0,
        "wk": 604800.0,
        "mo": 2629800.0,
        "a": 31557600.0,
    },
    "s^-1": {
        "/min": 0.0166666666666667,
        "/h": 0.000277777777777778,
        "/d": 1.15740740740741e-05,
        "/s": 1.0,
        "Hz": 1.0,
        "{beats}/min": 0.0166666666666667,
        "{breaths}/min": 0.0166666666666667,
        "ug/kg/min": 1.66666666666667e-11,
        "mg/kg/d": 1.15740740740741e-11,
        "mg/kg/h": 2.77777777777778e-10,
    },
    "kg.m^-1.s^-2": {"mm[Hg]": 133.322387415, "cm[H2O]": 98.0665, "kPa": 1000.0, "Pa": 1.0, "bar": 100000.0},
    "m^3": {"L": 0.001, "mL": 1e-06, "dL": 0.0001, "uL": 1e-09, "fL": 1e-18, "m3": 1.0},
    "m^2": {"m2": 1.0, "cm2": 0.0001},
    "kg.m^-3": {
        "g/L": 1.0,
        "g/dL": 10.0,
        "mg/dL": 0.01,
        "mg/L": 0.001,
        "mg/mL": 1.0,
        "ug/L": 1e-06,
        "ug/mL": 0.001,
        "ug/dL": 1e-05,
        "ng/L": 1e-09,
        "ng/mL": 1e-06,
        "ng/dL": 1e-08,
        "pg/mL": 1e-09,
        "kg/m3": 1.0,
    },
    "mol": {"mol": 1.0, "mmol": 0.001, "umol": 1e-06, "nmol": 1e-09, "meq": 0.001},
    "m^-3.mol": {
        "mol/L": 1000.0,
        "mmol/L": 1.0,
        "umol/L": 0.001,
        "nmol/L": 1e-06,
        "pmol/L": 1e-09,
        "mol/m3": 1.0,
        "meq/L": 1.0,
        "mmol/dL": 10.0,
    },
    "kg.m^-2": {"kg/m2": 1.0},
    "m^-3": {
        "10*9/L": 1000000000000.0,
        "10*12/L": 1000000000000000.0,
        "10*3/uL": 1000000000000.0,
        "10*6/uL": 1000000000000000.0,
        "/uL": 1000000000.0,
        "/L": 1000.0,
    },
    "m^-3.mol.s^-1": {"U/L": 1.66666666666667e-05, "mU/L": 1.66666666666667e-08, "U/mL": 0.0166666666666667},
    "kg^-1.mol": {"mosm/kg": 0.001, "mmol/kg": 0.001},
    "m^3.s^-1": {
        "mL/min": 1.66666666666667e-08,
        "L/min": 1.66666666666667e-05,
        "mL/h": 2.77777777777778e-10,
        "L/h": 2.77777777777778e-07,
        "mL/min/{1.73_m2}": 1.66666666666667e-08,
        "mL/d": 1.15740740740741e-11,
        "L/d": 1.15740740740741e-08,
    },
    "kg.s^-1": {
        "mg/d": 1.15740740740741e-11,
        "g/d": 1.15740740740741e-08,
        "ug/d": 1.15740740740741e-14,
        "mg/h": 2.77777777777778e-10,
        "ug/min": 1.66666666666667e-11,
    },
    "kg^-1.m^3": {"mL/kg": 1e-06},
    "m.s^-1": {"mm/h": 2.77777777777778e-07, "m/s": 1.0, "km/h": 0.277777777777778},
    "kg.m^2.s^-2": {"kcal": 4184.0, "J": 1.0, "kJ": 1000.0},
    "kg.m^2.s^-3": {"W": 1.0},
    "K": {"K": 1.0},
    "kg.mol^-1": {"mg/mmol": 0.001, "g/mol": 0.001},
    "mol.s^-1": {"mmol/d": 1.15740740740741e-08, "umol/d": 1.15740740740741e-11},
}
COMMON: Mapping[str, tuple[float, float, str]] = {
    **{code: (factor, 0.0, unit) for unit, factors in _COMMON.items() for code, factor in factors.items()},
    "Cel": (1.0, 273.15, "K"),
    "[degF]": (0.555555555555556, 255.372222222222, "K"),
}
"""Unit -> (factor, offset, canonical unit), for what needs no library."""


def canonical(value: float, code: str) -> tuple[float, str] | None:
    """The value in the canonical unit, at 12 significant digits, and that unit; None for a unit that is not
    converted."""
    linear = COMMON.get(code) or _linear(code)
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
    return float(f"{factor * float(magnitude):.15g}"), float(f"{offset:.15g}"), name


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
