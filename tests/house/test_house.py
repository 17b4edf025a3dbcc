"""The house itself: its layers, its sizes, its pages, and what must not be written into it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tools import settings_page

ROOT = Path(__file__).resolve().parents[2]
PURE = ("fhir", "search", "auth", "rules")
SOURCES = sorted((ROOT / "fhirserver").rglob("*.py"))
LONGEST_MODULE = 500
LONGEST_FUNCTION = 50

# What only the machine or the way it was made knows: a path under /work or a home folder, a registry's host.
LEAKS = re.compile(
    r"(?<![\w.])/(?:work|home/\w+|root)/\w|/tmp/team"
    r"|\b(?:pypi\.org|files\.pythonhosted\.org|registry\.npmjs\.org|crates\.io|deb\.debian\.org)\b"
)
UNFINISHED = re.compile(r"\b(?:TODO|FIXME|XXX|NotImplementedError)\b")
THIS = Path(__file__).resolve()


def _tracked(*suffixes: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:  # not a git checkout: an archive
        found = [
            path for path in ROOT.rglob("*") if path.is_file() and not path.relative_to(ROOT).parts[0].startswith(".")
        ]
    else:
        found = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in found if path.suffix in suffixes and path.is_file() and path.resolve() != THIS]


def _functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _calls(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno


def test_rooms_import_only_what_the_plan_allows() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-logo"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout


def test_the_page_of_settings_says_what_the_settings_are() -> None:
    assert settings_page.PAGE.read_text() == settings_page.page(), "run: make settings-page"


@pytest.mark.parametrize("room", PURE)
def test_pure_rooms_ask_no_clock_no_chance_and_no_environment(room: str) -> None:
    impure = re.compile(
        r"^(?:datetime\.(?:now|utcnow|today)|date\.today|time\.\w+|uuid4|uuid\.uuid\d|os\.(?:environ|getenv|urandom).*)$"
    )
    found = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in (ROOT / "fhirserver" / room).rglob("*.py")
        for name, line in _calls(path)
        if impure.match(name)
    ]

    assert found == []


def test_modules_and_functions_are_short_enough_to_read() -> None:
    long_modules = [
        str(path.relative_to(ROOT)) for path in SOURCES if len(path.read_text().splitlines()) > LONGEST_MODULE
    ]
    long_functions = [
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}"
        for path in SOURCES
        for function in _functions(path)
        if (function.end_lineno or 0) - function.lineno >= LONGEST_FUNCTION
    ]

    assert (long_modules, long_functions) == ([], [])


def test_every_module_says_what_it_is() -> None:
    silent = [str(path.relative_to(ROOT)) for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text()))]

    assert silent == []


def test_no_test_file_imports_another() -> None:
    importing = re.compile(r"^(?:from|import) tests\.(?:\w+\.)*test_\w+", re.MULTILINE)
    files = (path for path in _tracked(".py") if path.is_relative_to(ROOT / "tests"))
    assert [str(path.relative_to(ROOT)) for path in files if importing.search(path.read_text())] == []


def test_nothing_unfinished_is_left_in_the_code() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in _tracked(".py", ".sh")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if UNFINISHED.search(line)
    ]

    assert found == []


def test_no_path_of_a_machine_and_no_address_of_a_registry_is_written_down() -> None:
    texts = _tracked(".py", ".sh", ".md", ".toml", ".txt", ".yaml", ".yml")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in texts
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if LEAKS.search(line)
    ]

    assert found == []


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for page in _tracked(".md"):
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            file = target.partition("#")[0]
            if file and not re.match(r"[a-z]+:", target) and not (page.parent / file).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")

    assert broken == []


def test_a_link_to_a_heading_finds_it() -> None:
    broken = []
    for page in _tracked(".md"):
        for target, heading in re.findall(r"\]\(([\w./-]*)#([^)\s]+)\)", page.read_text()):
            text = (page.parent / target if target else page).read_text()
            if heading not in {_anchor(title) for title in re.findall(r"^#+ +(.+)$", text, re.MULTILINE)}:
                broken.append(f"{page.relative_to(ROOT)}: {target}#{heading}")

    assert broken == []


def _anchor(title: str) -> str:
    return re.sub(r"[^\w -]", "", title.strip().lower()).replace(" ", "-")


def test_what_is_named_of_the_code_is_there() -> None:
    """`room.module` and `room.module.name`, in the plan of the house, the rules and the code's own words."""
    named = re.compile(r"`([a-z0-9_]+(?:[./]\w+)+)`")
    pages = [ROOT / "docs" / "architecture.md", ROOT / "CONTRIBUTING.md", *SOURCES]
    rooms = {path.stem for path in (ROOT / "fhirserver").iterdir()}
    found = [
        f"{page.relative_to(ROOT)}: {name}"
        for page in pages
        for name in named.findall(page.read_text())
        if name.replace("/", ".").split(".")[0] in rooms and not _is_there(name.removesuffix(".py"))
    ]

    assert found == []


def _is_there(name: str) -> bool:
    at, parts = ROOT / "fhirserver", name.replace("/", ".").split(".")
    while parts and (at / parts[0]).is_dir():
        at /= parts.pop(0)
    module = at / f"{parts[0]}.py" if parts and (at / f"{parts[0]}.py").is_file() else at / "__init__.py"
    wanted = parts[1:] if module.stem != "__init__" else parts
    return set(wanted) <= _defined(module)


@cache
def _defined(module: Path) -> frozenset[str]:
    """What a module defines: functions, classes, their methods, names."""
    nodes = list(ast.walk(ast.parse(module.read_text())))
    named = [node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return frozenset(named) | {
        node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


def test_every_page_is_reached_from_the_front_page() -> None:
    reached, ahead = set[Path](), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page not in reached:
            reached.add(page)
            targets = re.findall(r"\]\(([^)#\s:]+\.md)[)#]", page.read_text())
            ahead += [(page.parent / target).resolve() for target in targets]

    assert [str(page.relative_to(ROOT)) for page in _tracked(".md") if page.resolve() not in reached] == []


def test_every_locked_package_has_a_hash() -> None:
    lines = (ROOT / "requirements.txt").read_text().replace("\\\n", " ").splitlines()
    unhashed = [line for line in lines if re.match(r"[\w.-]+==", line) and "--hash=sha256:" not in line]

    assert unhashed == []
    assert not any(line.lstrip().startswith(("-i ", "--index", "--extra-index", "--find-links")) for line in lines)


def test_every_dependency_of_the_project_is_locked() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    locked = {_name(line) for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line}

    assert {_name(each) for each in wanted} - locked == set()


def _name(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\s<>=!;\[]", requirement, maxsplit=1)[0]).lower()
