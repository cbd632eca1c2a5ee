"""What is shipped is what is there: folders, wheel, entry points, extras, README, Dockerfile."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

import artstore
from artstore.hookspecs import Provider
from artstore_cli import main as cli

ROOT = Path(__file__).parents[2]
ROOTS = ("kernel", "plugins", "adapters")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = {p.relative_to(ROOT).as_posix() for root in ROOTS for p in (ROOT / root).glob("artstore*")}


def requirement(text: str) -> str:
    """The name in a requirement."""
    found = re.match(r"[A-Za-z0-9._-]+", text)
    assert found
    return found[0].lower()


# --- folders, packages, entry points, extras --------------------------------------------------------------


def test_every_folder_is_shipped() -> None:
    assert set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == PACKAGES


def test_the_roots_are_no_packages() -> None:
    assert [root for root in ROOTS if (ROOT / root / "__init__.py").exists()] == []


def test_every_folder_is_a_typed_package() -> None:
    missing = [
        f"{p}/{n}" for p in PACKAGES for n in ("__init__.py", "py.typed") if not (ROOT / p / n).is_file()
    ]
    assert missing == []


def test_every_plugin_has_its_entry_point() -> None:
    plugins = {path.parent.name for path in (ROOT / "plugins").glob("*/plugin.py")}
    points = PROJECT["project"]["entry-points"]["artstore"]
    assert set(points.values()) == {f"{name}.plugin" for name in plugins}
    installed = {
        p.name: p.value for p in entry_points(group="artstore") if p.dist and p.dist.name == "artstore"
    }
    assert installed == points, "install the package anew: pip install -e ."


def _offers() -> Iterator[Provider]:
    for point in entry_points(group="artstore"):
        if point.dist is not None and point.dist.name == "artstore":
            module = point.load()
            for name, hook in vars(module).items():
                if name.startswith("artstore_") and callable(hook) and name != "artstore_committed":
                    yield from hook()


def test_every_offer_names_a_module_and_an_extra_that_exist() -> None:
    offers = list(_offers())
    assert len(offers) >= 4
    extras = PROJECT["project"]["optional-dependencies"]
    for offer in offers:
        module, _, name = offer.target.partition(":")
        path = ROOT / "plugins" / (module.replace(".", "/") + ".py")
        assert path.is_file(), offer
        classes = {
            n.name for n in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(n, ast.ClassDef)
        }
        assert name in classes, offer
        assert offer.extra is None or offer.extra in extras, offer


def test_all_is_every_extra_that_users_need() -> None:
    extras = dict(PROJECT["project"]["optional-dependencies"])
    everything = {name for name in extras if name not in ("all", "test", "testing")}
    assert set(extras["all"]) == {f"artstore[{','.join(sorted(everything))}]"}


_IMPORTED_AS = {"python_multipart": "python-multipart", "pydantic_core": "pydantic"}


def test_what_is_imported_is_declared() -> None:
    project = PROJECT["project"]
    always = {requirement(r) for r in project["dependencies"]}
    extras = {requirement(r) for rs in project["optional-dependencies"].values() for r in rs}
    used: set[str] = set()
    for path in (p for root in ROOTS for p in (ROOT / root).rglob("*.py")):
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module)
        tops = {n.partition(".")[0] for n in names}
        strange = {t for t in tops if t not in sys.stdlib_module_names and not t.startswith("artstore")}
        needed = {_IMPORTED_AS.get(t, t) for t in strange}
        used |= needed
        assert needed <= always | extras, f"{path.relative_to(ROOT)} needs {needed - always - extras}"
    assert always <= used, f"declared, and used by nobody: {always - used}"


# --- the wheel --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    place = tmp_path_factory.mktemp("wheel")
    # An old clock in the archive, so that two builds of one tree are the same bytes.
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)],
        cwd=ROOT, check=True, capture_output=True, env=os.environ | {"SOURCE_DATE_EPOCH": "1577836800"},
    )  # fmt: skip
    (made,) = place.iterdir()
    assert made.name == f"artstore-{artstore.__version__}-py3-none-any.whl"
    return zipfile.ZipFile(made)


def _metadata(wheel: zipfile.ZipFile, name: str) -> str:
    return wheel.read(f"artstore-{artstore.__version__}.dist-info/{name}").decode()


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    expected = {
        path.relative_to(ROOT / package).parent.as_posix()
        for package in ("kernel", "plugins", "adapters")
        for path in (ROOT / package).rglob("*.py")
    }
    held = {Path(n).parent.as_posix() for n in wheel.namelist() if ".dist-info" not in n}
    assert held == expected
    shipped = {n for n in wheel.namelist() if n.endswith(".py")}
    there = {p.relative_to(ROOT / root).as_posix() for root in ROOTS for p in (ROOT / root).rglob("*.py")}
    assert shipped == there
    strange = [n for n in wheel.namelist() if re.search(r"__pycache__|\.pyc$|^tests/|^kernel/|^plugins/", n)]
    assert strange == []
    assert f"artstore-{artstore.__version__}.dist-info/licenses/LICENSE" in wheel.namelist()


def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    said: Message = Parser().parsestr(_metadata(wheel, "METADATA"))
    project = PROJECT["project"]
    assert said["Name"] == "artstore"
    assert said["Version"] == artstore.__version__
    assert said["Requires-Python"] == project["requires-python"]
    assert said["License-Expression"] == "Apache-2.0"
    assert set(said.get_all("Provides-Extra", [])) == set(project["optional-dependencies"])
    needs = said.get_all("Requires-Dist", [])
    assert {requirement(r) for r in needs if "extra ==" not in r} == {
        requirement(r) for r in project["dependencies"]
    }
    assert str(said.get_payload()).startswith("# artstore\n")
    points = _metadata(wheel, "entry_points.txt")
    assert "artstore = artstore_cli.main:main" in points
    assert "[artstore]" in points


def test_the_wheel_works_alone(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """From the archive itself, far from the checkout: nothing is found by the accident of where we stand."""
    imports = "import sys, artstore; from artstore_cli.main import main"
    code = f"{imports}; print(artstore.__file__); sys.exit(main(['openapi']))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(wheel.filename)},
    )  # fmt: skip
    where, _, document = run.stdout.partition("\n")
    assert where.startswith(str(wheel.filename))
    assert json.loads(document)["openapi"] == "3.1.0"


# --- what the README promises -----------------------------------------------------------------------------


def test_the_readme_begins_with_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    install, test = re.findall(r"^```sh\n(.+)\n```$", readme, flags=re.MULTILINE)[:2]
    assert "pip install ." in install
    assert install.endswith("artstore serve")
    assert test.endswith("bin/tox")
    assert readme.index(test) < readme.index("\n## ")


def test_ci_runs_the_command_of_the_readme() -> None:
    script = ROOT / ".ci" / "run"
    text = script.read_text(encoding="utf-8")
    assert script.stat().st_mode & 0o111
    assert "set -euo pipefail" in text
    assert "grep -m1 'bin/tox$' README.md" in text
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_the_changelog_has_a_place_for_what_comes() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in changelog or f"## [{artstore.__version__}]" in changelog


# --- Dockerfile: there is no engine here, so it is read ---------------------------------------------------


def _instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [
        (w.upper(), rest.strip()) for w, _, rest in (line.partition(" ") for line in lines if line.strip())
    ]


INSTRUCTIONS = _instructions()


def _of(word: str) -> list[str]:
    return [rest for w, rest in INSTRUCTIONS if w == word]


def test_docker_words_are_known() -> None:
    known = {"ARG", "FROM", "ENV", "WORKDIR", "RUN", "COPY", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL",
             "HEALTHCHECK", "ENTRYPOINT", "CMD"}  # fmt: skip
    assert {w for w, _ in INSTRUCTIONS} <= known
    assert INSTRUCTIONS[0] == ("ARG", "PYTHON=3.12")
    assert _of("FROM") == ["python:${PYTHON}-slim AS build", "python:${PYTHON}-slim"]


def test_docker_copies_what_is_there_and_not_ignored() -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_in = {line[1:] for line in ignore if line.startswith("!")}
    copied: set[str] = set()
    for rest in _of("COPY"):
        words = shlex.split(rest)
        if not words[0].startswith("--from"):
            copied |= set(words[:-1])
    assert copied == let_in
    assert [c for c in copied if not (ROOT / c).exists()] == []
    # What the wheel is made of, and what its metadata reads.
    project = PROJECT["project"]
    assert copied >= {"pyproject.toml", project["readme"], *project["license-files"], *ROOTS}


def test_docker_installs_what_is_declared() -> None:
    (line,) = [r for r in _of("RUN") if "requirements.txt" in r]
    command = line.partition(" > requirements.txt")[0]
    words = shlex.split(command)
    assert words[:2] == ["python", "-c"]
    run = subprocess.run([sys.executable, *words[1:]], cwd=ROOT, capture_output=True, text=True, check=True)
    extras = PROJECT["project"]["optional-dependencies"]
    names = extras["all"][0].removeprefix("artstore[").removesuffix("]").split(",")
    ours = [d for name in names for d in extras[name] if not d.startswith("artstore[")]
    assert run.stdout.split("\n")[:-1] == [*PROJECT["project"]["dependencies"], *ours]


def test_docker_runs_as_nobody_special_and_keeps_its_data() -> None:
    final = INSTRUCTIONS[[i for i, (w, _) in enumerate(INSTRUCTIONS) if w == "FROM"][-1] :]
    words = [w for w, _ in final]
    assert dict(final)["USER"] not in ("root", "0")
    assert dict(final)["VOLUME"] == "/data"
    environment = dict(
        pair.split("=", 1) for r in (rest for w, rest in final if w == "ENV") for pair in shlex.split(r)
    )
    assert environment["ARTSTORE_HOME"] == "/data"
    assert environment["ARTSTORE_SERVER__HOST"] == "0.0.0.0"
    # What becomes of /data after VOLUME is lost in classic builds: it is made before.
    making = next(i for i, (w, rest) in enumerate(final) if w == "RUN" and "/data" in rest)
    assert making < words.index("USER") < words.index("VOLUME")


def test_docker_commands_exist() -> None:
    parser = cli._parser()
    entry = json.loads(_of("ENTRYPOINT")[0])
    assert entry == ["artstore"]
    assert parser.parse_args(json.loads(_of("CMD")[0])).run is cli._serve
    check = json.loads(_of("HEALTHCHECK")[0].partition("CMD ")[2])
    assert check[0] == "artstore"
    assert parser.parse_args(check[1:]).run is cli._healthcheck


def test_docker_environment_is_understood(tmp_path: Path) -> None:
    from artstore.host.settings import load

    loaded = load(environ={"ARTSTORE_HOME": str(tmp_path), "ARTSTORE_SERVER__HOST": "0.0.0.0"})
    assert loaded.settings.server.host == "0.0.0.0"
    assert str(loaded.settings.server.port) == _of("EXPOSE")[0]
