"""The house keeps its shape: who imports whom, what happens at import, sizes, names, and what the docs speak of."""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest
from pydantic import BaseModel

from artstore import hookspecs, spi
from artstore.host import exit_codes
from artstore.host.providers import open_registry
from artstore.host.settings import DEFAULTS, Settings
from artstore_cli import main as cli
from artstore_http.problems import PROBLEMS
from artstore_http.routes import ROUTES

ROOT = Path(__file__).parents[2]
ROOTS = ("kernel", "plugins", "adapters")
OURS = {package.name for root in ROOTS for package in (ROOT / root).glob("artstore*")}


class Rule(NamedTuple):
    """What one package may import: `ours` modules and rooms of ours, `theirs` third-party packages."""

    ours: set[str]
    theirs: set[str]


# The table of arrows between packages. A package may always import itself, and the standard library. A room (a package
# within `artstore`, or `artstore` as a whole) stands for all of its modules.
CONTRACT = {"hookspecs", "spi", "errors", "attr", "ids", "folding", "posix"}
_CONTRACT = {f"artstore.{name}" for name in CONTRACT}
RULES = {
    "artstore_http": Rule({"artstore"}, {"pydantic", "python_multipart"}),
    "artstore_starlette": Rule(
        {"artstore_http", "artstore.host.boot", "artstore.spi", "artstore.errors"}, {"starlette", "anyio"}
    ),
    "artstore_falcon": Rule(
        {"artstore_http", "artstore.host.boot", "artstore.spi", "artstore.errors"}, {"falcon"}
    ),
    "artstore_granian": Rule({"artstore.host", "artstore.errors"}, {"granian"}),
    "artstore_cli": Rule(
        {"artstore", "artstore_granian", "artstore_http.openapi", "artstore_http.routes"}, {"pydantic"}
    ),
    "artstore_naming": Rule(_CONTRACT, {"pydantic"}),
    "artstore_local": Rule(_CONTRACT, {"pydantic"}),
    "artstore_crypt": Rule(_CONTRACT, {"pydantic", "cryptography"}),
    "artstore_wal": Rule(_CONTRACT, {"pydantic"}),
    "artstore_sql": Rule(_CONTRACT, {"pydantic", "sqlalchemy", "alembic", "psycopg"}),
    "artstore_objects": Rule(_CONTRACT, {"pydantic"}),
    "artstore_fsspec": Rule(_CONTRACT | {"artstore_objects"}, {"pydantic", "fsspec"}),
    "artstore_s3": Rule(_CONTRACT | {"artstore_objects"}, {"pydantic", "s3fs", "botocore", "aiohttp"}),
    "artstore_jwt": Rule(_CONTRACT, {"pydantic", "joserfc", "cryptography"}),
    "artstore_webhook": Rule(_CONTRACT, {"pydantic"}),
}

# The rows of the kernel, from the ground up: a module may import its own row and the rows before it.
ROWS = (
    {"errors", "ids", "folding", "limits"},
    {"attr", "posix", "modes"},
    {"stamps"},
    {"hookspecs", "spi"},
    {"locks", "ledger", "element", "observers"},
    {"parts"},
    {"checkpoint", "backlog"},
    {"index"},
    {"reading", "reservation", "space"},
    {"upload", "recovery"},
    {"background"},
    {"kernel"},
    {"maintenance"},
    {"host"},
)
TESTING_MAY = CONTRACT | {"testing", "modes", "limits"}
"""The suites hold providers to the contract, and know no more than they do."""
ROOMS = {"host", "maintenance", "testing"}
"""Rooms of the kernel's package that are not the kernel."""
KERNEL_LINES = 2955
"""Lines of code of the kernel with its contract: docstrings, comments and blank lines are not counted. A change that
raises this number names what it adds."""

HEAVY = (
    "sqlalchemy",
    "alembic",
    "psycopg",
    "starlette",
    "falcon",
    "joserfc",
    "cryptography",
    "granian",
    "fsspec",
    "s3fs",
    "pydantic",
    "anyio",
    "pluggy",
)


class Import(NamedTuple):
    module: str
    line: int
    lazy: bool
    """Within a function. An import for the type checker alone is an import like any other: it is a dependency."""


def sources() -> Iterator[tuple[str, Path]]:
    for root in ROOTS:
        for path in sorted((ROOT / root).rglob("*.py")):
            parts = path.relative_to(ROOT / root).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(sources())


@cache
def imports(module: str) -> tuple[Import, ...]:
    found: list[Import] = []

    def walk(node: ast.AST, lazy: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend(Import(alias.name, child.lineno, lazy) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{module}:{child.lineno}: a relative import hides where it goes"
                assert child.module is not None
                # `from artstore import attr` imports artstore.attr.
                names = [f"{child.module}.{alias.name}" for alias in child.names]
                found.extend(
                    Import(name if name in MODULES else child.module, child.lineno, lazy) for name in names
                )
            walk(child, lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    walk(ast.parse(MODULES[module].read_text(encoding="utf-8")), lazy=False)
    return tuple(found)


def package(module: str) -> str:
    return module.partition(".")[0]


def outside(module: str) -> Iterator[Import]:
    for found in imports(module):
        top = package(found.module)
        if top not in sys.stdlib_module_names and top != package(module):
            yield found


def test_the_walk_sees_something() -> None:
    assert len(MODULES) > 60
    assert {package(m) for m in MODULES} == OURS
    assert any(i.module == "artstore.kernel" for i in imports("artstore_http.call"))


def test_every_package_has_a_rule() -> None:
    assert set(RULES) == OURS - {"artstore"}


def is_within(module: str, places: Iterable[str]) -> bool:
    return any(f"{module}.".startswith(f"{place}.") for place in places)


@pytest.mark.parametrize("module", [m for m in MODULES if package(m) != "artstore"])
def test_a_package_imports_only_what_the_table_of_arrows_allows(module: str) -> None:
    rule = RULES[package(module)]
    for found in outside(module):
        if package(found.module) in OURS:
            allowed = is_within(found.module, rule.ours) or found.module == "artstore"
            allowed = allowed and not is_within(found.module, ["artstore.testing"])
        else:
            allowed = package(found.module) in rule.theirs
        assert allowed, f"{module}:{found.line} must not import {found.module}"


@pytest.mark.parametrize("module", [m for m in MODULES if package(m) == "artstore"])
def test_the_kernel_imports_pluggy_and_pydantic_alone(module: str) -> None:
    extra = {"pytest", "hypothesis"} if is_within(module, ["artstore.testing"]) else set()
    for found in outside(module):
        allowed = package(found.module) in {"pluggy", "pydantic", "pydantic_core"} | extra
        assert allowed, f"{module}:{found.line} must not import {found.module}"


@pytest.mark.parametrize("module", [m for m in MODULES if package(m) == "artstore" and m != "artstore"])
def test_the_kernel_imports_downward(module: str) -> None:
    rank = {name: number for number, row in enumerate(ROWS) for name in row}
    place = module.split(".")[1]
    for found in imports(module):
        if package(found.module) != "artstore" or found.module == "artstore":
            continue
        target = found.module.split(".")[1]
        if place == "testing":
            assert target in TESTING_MAY, f"{module}:{found.line} must not import {found.module}"
        else:
            assert rank[target] <= rank[place], f"{module}:{found.line}: an arrow upward, to {found.module}"


def _names_in(module: str) -> Iterator[str]:
    """The strings of a module that are not docstrings."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    prose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value


@pytest.mark.parametrize("module", [m for m in MODULES if package(m) == "artstore"])
def test_the_kernel_names_no_adapter_and_no_plugin_of_ours(module: str) -> None:
    others = "|".join(sorted(OURS - {"artstore"}))
    assert [
        text for text in _names_in(module) if re.search(rf"\b({others}|granian|starlette|falcon)\b", text)
    ] == []


def test_no_module_imports_in_a_circle() -> None:
    graph = {
        module: {i.module for i in imports(module) if not i.lazy and i.module in MODULES} - {module}
        for module in MODULES
    }
    TopologicalSorter(graph).prepare()


def _lines_of_code(path: Path) -> int:
    """Lines that hold code: no docstrings, comments or blank lines."""
    source = path.read_text(encoding="utf-8")
    code: set[int] = set()
    prose: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            prose |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING):
            code |= set(range(token.start[0], token.end[0] + 1))
    return len(code - prose)


def test_the_kernel_can_be_read_in_an_hour() -> None:
    kernel = [
        path
        for module, path in MODULES.items()
        if package(module) == "artstore" and not is_within(module, [f"artstore.{room}" for room in ROOMS])
    ]
    count = sum(map(_lines_of_code, kernel))
    assert 1500 < count <= KERNEL_LINES


def test_the_command_line_imports_nothing_heavy() -> None:
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import artstore_cli.main"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in run.stderr.splitlines()}
    assert "argparse" in loaded
    assert not loaded & set(HEAVY)


_WATCH = """
import importlib, sys, threading
seen = []
def hook(event, args):
    if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        seen.append(f"writes {args[0]}")
    elif event in ("socket.bind", "socket.connect", "subprocess.Popen", "os.mkdir", "os.rename", "sqlite3.connect"):
        seen.append(f"{event} {args!r}")
for library in ("pytest", "hypothesis", "s3fs"):  # urllib3 binds a socket to learn of IPv6
    importlib.import_module(library)
sys.addaudithook(hook)
for name in sys.argv[1:]:
    importlib.import_module(name)
    assert not seen, f"{name}: {seen}"
    assert threading.active_count() == 1, f"{name} began a thread"
"""


def test_nothing_happens_at_import(tmp_path: Path) -> None:
    names = [m for m in MODULES if not m.endswith("__main__")]
    run = subprocess.run(
        [sys.executable, "-B", "-c", _WATCH, *names],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert not list(tmp_path.iterdir())


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("name", ["artstore_starlette", "artstore_falcon"])
def test_adapters_are_thin(name: str) -> None:
    assert sum(lines(path) for module, path in MODULES.items() if package(module) == name) < 200


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_called_by_a_word_that_says_nothing(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    names = [n.name for n in ast.walk(tree) if isinstance(n, kinds)] + module.split(".")
    assert [n for n in names if re.search(r"util|manager|helper|service|misc|common", n, re.IGNORECASE)] == []


# --- the docs speak of everything -------------------------------------------------------------------------

DOCS = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}


def untold(page: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word not in DOCS[page]]


def _commands() -> dict[str, argparse.ArgumentParser]:
    actions = cli._parser()._subparsers
    assert actions is not None
    return dict(actions._group_actions[0].choices)  # type: ignore[call-overload]


def test_commands_are_told() -> None:
    commands = _commands()
    assert len(commands) >= 10
    assert untold("configuration.md", [f"`artstore {name}" for name in commands]) == []
    options = {o for c in commands.values() for a in c._actions for o in a.option_strings} - {"-h", "--help"}
    assert untold("configuration.md", [f"`{o}" for o in options]) == []


def test_exit_codes_are_told() -> None:
    codes = {code for name, code in vars(exit_codes).items() if name.isupper()}
    assert untold("configuration.md", [f"| {code} |" for code in codes]) == []


def _fields() -> Iterator[tuple[list[str], str]]:
    """Each setting as its path and the heading it stands under."""
    for name, field in Settings.model_fields.items():
        annotation = field.annotation
        if name in DEFAULTS:
            yield [name], "### Top level"
        elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
            for below in annotation.model_fields:
                yield [name, below], f"### `[{name}]`"
        else:
            yield [name], "### Top level"
    registry = open_registry(Settings())
    for offer in registry.offers:
        if offer.distribution == "artstore":
            provider = registry.choose(offer.role, offer.provider.name)
            for below in provider.Settings.model_fields:
                yield [offer.role, offer.provider.name, below], f"### `[{offer.role}.{offer.provider.name}]`"


def _sections(page: str) -> dict[str, str]:
    parts = re.split(r"^(#{2,3} .*)$", DOCS[page], flags=re.MULTILINE)
    return {head.partition(":")[0]: body for head, body in zip(parts[1::2], parts[2::2], strict=True)}


def test_settings_are_told() -> None:
    sections = _sections("configuration.md")
    fields = list(_fields())
    assert len(fields) > 30
    for path, heading in fields:
        variable = "ARTSTORE_" + "__".join(path).upper()
        assert f"| `{path[-1]}` | `{variable}` |" in sections[heading], (
            f"{heading} does not tell of {path[-1]}"
        )


def test_nothing_is_told_that_is_no_setting() -> None:
    variables = {"ARTSTORE_" + "__".join(path).upper() for path, _ in _fields()}
    variables |= {v + "_FILE" for v in variables} | {"ARTSTORE_HOME", "ARTSTORE_CONFIG", "ARTSTORE_PLUGINS"}
    for page, text in DOCS.items():
        assert set(re.findall(r"\bARTSTORE_\w+[A-Z]\b", text)) <= variables, page


def test_routes_are_told() -> None:
    assert untold("http-api.md", [f"| `{r.method} {r.path}`" for r in ROUTES]) == []
    rows = {line for line in DOCS["http-api.md"].splitlines() if line.startswith("| `")}
    for route in ROUTES:
        row = next(r for r in rows if r.startswith(f"| `{route.method} {route.path}`"))
        cells = [cell.strip() for cell in row.split("|")]
        assert cells[2] == (route.scope or ""), row
        assert str(route.success) in cells[4], row
    assert untold("http-api.md", {f"`{p}`" for r in ROUTES for p in r.parameters}) == []


def test_problems_are_told() -> None:
    assert untold("http-api.md", [f"| `{code}` | {status} |" for code, (status, _) in PROBLEMS.items()]) == []


def test_the_seam_is_told() -> None:
    hooks = [name for name in vars(hookspecs) if name.startswith("artstore_")]
    assert len(hooks) >= 5
    rooms = [
        value
        for value in vars(spi).values()
        if isinstance(value, type)
        and value.__module__.startswith(spi.__name__)
        and getattr(value, "_is_protocol", False)
    ]
    assert len(rooms) >= 7
    methods = {m for room in rooms for m, v in vars(room).items() if callable(v) and not m.startswith("_")}
    told = [f"`{word}`" for word in [*hooks, *methods]]
    assert untold("architecture.md", told) == []
    assert untold("architecture.md", [f"`{room.__name__}`" for room in rooms]) == []


def test_terms_are_told() -> None:
    words = ["file", "id", "key", "data", "attr", "sidecar", "revision", "element", "home", "role", "provider",
             "offer", "intent", "commit", "segment", "session", "span", "mode", "principal", "scope", "damaged",
             "orphan", "missing"]  # fmt: skip
    assert untold("terms.md", [f"| **{word}**" for word in words]) == []


def test_links_lead_somewhere() -> None:
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name} leads to {target}"
