"""`artstore plugin new`: what it makes, and what it refuses. `tests/example_plugin` installs and tests the result."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from artstore.errors import Conflict, InvalidField
from artstore_cli import main as cli
from artstore_cli.scaffold import SOURCES, make, provided_role


@pytest.mark.parametrize("choice", SOURCES)
def test_a_new_plugin_is_valid_python_and_offers_its_name(tmp_path: Path, choice: str) -> None:
    made = make("tape-2", choice, tmp_path)
    role = provided_role(choice)
    assert made.name == "artstore-tape-2"
    project = tomllib.loads((made / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["artstore"] == {"tape-2": "artstore_tape_2.plugin"}
    for path in made.rglob("*.py"):
        text = path.read_text()
        ast.parse(text)
        assert not {"Memory", "Static", "Dated"} & set(text.split())
        assert "{module}" not in text
    code = (made / "src" / "artstore_tape_2" / f"{role}.py").read_text()
    assert "API: ClassVar[int] = 1" in code or "    API = 1" in code
    assert not re.search(r"\bAPI,|= API\b", code)
    assert (
        f'target="artstore_tape_2.{role}:Tape2{role.capitalize()}"'
        in (made / "src" / "artstore_tape_2" / "plugin.py").read_text()
    )


@pytest.mark.parametrize(
    "name", ["", "Tape", "2tape", "-tape", "tape-", "ta--pe", "ta_pe", "../tape", "a/b", "é", "a" * 41]
)
def test_a_bad_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidField, match="cannot be a name"):
        make(name, "backend", tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_and_no_name_is_used_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plugin", "new", "tape", "--role", "cache"]) == 0
    assert "cd artstore-tape" in capsys.readouterr().out
    assert cli.main(["plugin", "new", "tape", "--role", "cache"]) == 1
    assert "artstore-tape is here already" in capsys.readouterr().err
    assert cli.main(["plugin", "new", "local", "--role", "backend"]) == 1
    assert "'local' is offered by artstore:local already" in capsys.readouterr().err
    assert cli.main(["plugin", "new", "No Name", "--role", "auth"]) == 1
    assert "cannot be a name" in capsys.readouterr().err
    with pytest.raises(SystemExit) as usage:
        cli.main(["plugin", "new", "tape", "--role", "robot"])
    assert usage.value.code == 2
    assert [p.name for p in tmp_path.iterdir()] == ["artstore-tape"]
    with pytest.raises(Conflict):
        make("tape", "cache", tmp_path)


@pytest.mark.parametrize("role", SOURCES)
def test_a_plain_installation_is_enough(tmp_path: Path, role: str) -> None:
    """Without the extra `testing`, pytest is not installed."""
    without = (
        "import sys; sys.modules['pytest'] = None\n"
        "from artstore_cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", without, "plugin", "new", "tape", "--role", role]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stderr) == (0, "")
