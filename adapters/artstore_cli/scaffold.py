"""Makes a first plugin: a distribution with a provider in memory that passes the suite of its role.

The provider is a copy of the one that ships with the suites, or of our own naming: a newcomer reads tested code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from artstore.errors import Conflict, InvalidField
from artstore.host.roles import ROLES
from artstore.spi import API

NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
NAME_LIMIT = 40
"""Characters of the name of a provider."""

SOURCES = {
    "backend": ("artstore", "testing/memory_backend.py", "Memory"),
    "object-store": ("artstore_objects", "memory.py", "Memory"),
    "cache": ("artstore", "testing/memory_cache.py", "Memory"),
    "auth": ("artstore", "testing/memory_auth.py", "Static"),
    "naming": ("artstore_naming", "dated.py", "Dated"),
}
"""Choice of `--role` -> package and file of the provider that is copied, and the word that its class names begin with.
The file is read and not imported: `artstore.testing` needs pytest, which a plain installation does not have."""

PYPROJECT = """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "artstore-{name}"
version = "0.1.0"
description = "{role} '{name}' for artstore"
requires-python = ">=3.11"
dependencies = ["artstore"]

[project.optional-dependencies]
test = ["artstore[testing]"]

[project.entry-points.artstore]
{name} = "{module}.plugin"

[tool.hatch.build.targets.wheel]
packages = ["src/{module}"]

[tool.pytest.ini_options]
testpaths = ["tests"]
addopts = ["--import-mode=importlib"]

[tool.mypy]
strict = true
plugins = ["pydantic.mypy"]
"""

PLUGIN = '''\
"""What this distribution offers. It is imported at every start, so nothing heavy is imported here."""

from artstore.hookspecs import Provider, hookimpl


@hookimpl
def {hook}() -> list[Provider]:
    return [Provider(name="{name}", target="{module}.{role}:{kind}", summary="Write here what it is")]
'''

README = """\
# artstore-{name}

The {role} `{name}` for artstore. To choose it, in `artstore.toml`:

```toml
{role} = "{name}"
```

`src/{module}/{role}.py` is yours to rewrite. `pytest` shows whether it keeps the contract of its role, which is in
`artstore.spi`.
"""

TESTS = {
    "backend": '''\
"""The suite of artstore, held against `{kind}`."""

from collections.abc import Callable

import pytest
from {module}.backend import {kind}, {Name}Store

from artstore.spi import RecoverableBackend
from artstore.testing import BackendSuite


class Test{kind}(BackendSuite):
    @pytest.fixture
    def store(self) -> {Name}Store:
        return {Name}Store()

    @pytest.fixture
    def backend(self, store: {Name}Store) -> RecoverableBackend:
        return {kind}(store=store)

    @pytest.fixture
    def reopen(self, backend: RecoverableBackend, store: {Name}Store) -> Callable[[], RecoverableBackend]:
        def reopen() -> RecoverableBackend:
            backend.close()
            return {kind}(store=store)

        return reopen

    @pytest.fixture
    def open_second(self, store: {Name}Store) -> Callable[[], RecoverableBackend]:
        return lambda: {kind}(store=store)
''',
    "object-store": '''\
"""The suite of artstore, held against `{kind}`."""

from collections.abc import Callable

import pytest
from {module}.backend import {kind}, {Name}Bucket

from artstore.spi import RecoverableBackend
from artstore.testing import BackendSuite


class Test{kind}(BackendSuite):
    @pytest.fixture
    def bucket(self) -> {Name}Bucket:
        return {Name}Bucket()

    @pytest.fixture
    def backend(self, bucket: {Name}Bucket) -> RecoverableBackend:
        return {kind}(bucket=bucket)

    @pytest.fixture
    def reopen(self, backend: RecoverableBackend, bucket: {Name}Bucket) -> Callable[[], RecoverableBackend]:
        def reopen() -> RecoverableBackend:
            backend.close()
            return {kind}(bucket=bucket)

        return reopen

    @pytest.fixture
    def open_second(self, bucket: {Name}Bucket) -> Callable[[], RecoverableBackend]:
        return lambda: {kind}(bucket=bucket)
''',
    "other": '''\
"""The suite of artstore, held against `{kind}`."""

from pathlib import Path

import pytest
from {module}.{role} import {kind}

from artstore.spi import {Role}, NoSettings
from artstore.testing import {Role}Suite, make_context


class Test{kind}({Role}Suite):
    @pytest.fixture
    def {role}(self, tmp_path: Path) -> {Role}:
        return {kind}(NoSettings(), make_context(tmp_path))
''',
}


def provided_role(choice: str) -> str:
    """Return the role that a choice of `--role` provides: an object store is the short way to a backend."""
    return "backend" if choice == "object-store" else choice


def make(name: str, choice: str, place: Path, taken: Mapping[str, str] | None = None) -> Path:
    """Make a distribution in a new directory below `place`, and return that directory.

    `choice`: a key of `SOURCES`. `taken`: the names that are offered already -> the plugins that offer them. Raises
    `InvalidField` for an impossible name, `Conflict` for a name or a directory that is in use, `OSError`.
    """
    role = provided_role(choice)
    if not NAME.fullmatch(name) or len(name) > NAME_LIMIT:
        raise InvalidField(
            "NAME",
            f"'{name}' cannot be a name: a-z, 0-9 and single '-' between, at most {NAME_LIMIT} characters.",
        )
    if taken and name in taken:
        raise Conflict(f"The {role} '{name}' is offered by {taken[name]} already.")
    directory = place / f"artstore-{name}"
    if directory.exists():
        raise Conflict(f"{directory.name} is here already.")
    package, source, old = SOURCES[choice]
    new = "".join(part.capitalize() for part in name.split("-"))
    fill = {
        "name": name, "role": role, "hook": ROLES[role].hook, "Role": role.capitalize(), "Name": new,
        "module": f"artstore_{name.replace('-', '_')}", "kind": f"{new}{role.capitalize()}",
    }  # fmt: skip
    code = (files(package) / source).read_text(encoding="utf-8")
    written = {
        "pyproject.toml": PYPROJECT,
        "README.md": README,
        "src/{module}/__init__.py": '"""The {role} \'{name}\' for artstore."""\n',
        "src/{module}/py.typed": "",
        "src/{module}/plugin.py": PLUGIN,
        "tests/test_{role}.py": TESTS.get(choice, TESTS["other"]),
    }
    for path, text in written.items():
        _write(directory, path, text, fill)
    body = re.sub(rf"\b{old}(?=[A-Z])", new, _pin_api(code.partition('"""\n')[2]))
    module = directory / "src" / fill["module"] / f"{role}.py"
    module.write_text(f'"""The {role} `{name}`: make it yours."""\n{body}', encoding="utf-8")
    return directory


def _pin_api(code: str) -> str:
    """Return the code of a provider with the number of the API in place of the constant.

    A provider that ships with artstore fits every version of it. A plugin is installed apart, so it has to name the
    number that it was written for.
    """
    code = re.sub(r"^(    API(?:: ClassVar\[int\])? = )API$", rf"\g<1>{API}", code, flags=re.MULTILINE)
    return re.sub(r"^    API,\n|(?<=import )API, ", "", code, flags=re.MULTILINE)


def _write(directory: Path, path: str, text: str, fill: Mapping[str, str]) -> None:
    for name, value in fill.items():
        path, text = path.replace(f"{{{name}}}", value), text.replace(f"{{{name}}}", value)
    (directory / path).parent.mkdir(parents=True, exist_ok=True)
    (directory / path).write_text(text, encoding="utf-8")
