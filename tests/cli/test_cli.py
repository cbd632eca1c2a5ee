"""Every command, as a person and as a program call it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import artstore
from artstore_cli.main import main
from support.ports import free_port

COMMANDS = [
    "serve",
    "token",
    "plugins",
    "config",
    "recover",
    "wal",
    "mode",
    "openapi",
    "healthcheck",
    "version",
]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [n for n in os.environ if n.startswith("ARTSTORE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    # `serve` configures the log of its whole process, which is here the process of the tests.
    monkeypatch.setattr("logging.config.dictConfig", lambda _: None)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


class Cli:
    """Runs commands on one home."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home = home
        self._capsys = capsys

    def __call__(self, command: str, *arguments: str) -> tuple[int, str, str]:
        code = main([command, "--home", str(self.home), *arguments])
        out, err = self._capsys.readouterr()
        return code, out, err

    def json(self, command: str, *arguments: str) -> Any:
        code, out, err = self(command, *arguments, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)


@pytest.fixture
def cli(home: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(home, capsys)


@pytest.mark.parametrize("arguments", [["--help"], *([c, "--help"] for c in COMMANDS)])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: artstore")
    if len(arguments) == 1:
        assert all(f" {command} " in out.replace("\n", " ") for command in COMMANDS)
        assert "exit codes: 0 ok, 1 failed, 2 usage" in out


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, artstore_cli.main; artstore_cli.main._parser(); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {
        "pydantic",
        "pluggy",
        "sqlalchemy",
        "joserfc",
        "granian",
        "starlette",
        "falcon",
        "pytest",
        "artstore.host.boot",
    }
    assert not heavy & set(loaded)


@pytest.mark.parametrize("arguments", [
    [], ["no-such-command"], ["token"], ["token", "--user", "x"], ["token", "--user", "x", "--role", "king"],
    ["config"], ["config", "delete"], ["mode", "fast"], ["wal", "--status", "lost"], ["wal", "--limit", "x"],
    ["serve", "--adapter", "django"], ["serve", "--port", "x"], ["version", "--no-such-option"],
    ["token", "--user", "x", "--role", "user", "--ttl", "0"], ["wal", "--limit", "-1"], ["serve", "--port", "65536"],
    ["serve", "--workers", "0"], ["--home", "", "serve"], ["serve", "--home", ""], ["healthcheck", "--port", "²"],
])  # fmt: skip
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: artstore")


def test_a_closed_standard_output_is_no_error() -> None:
    ended = subprocess.run(
        ["sh", "-c", 'exec "$0" -m artstore_cli version >&-', sys.executable],
        capture_output=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_version(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("version") == (0, f"{artstore.__version__}\n", "")
    assert cli.json("version") == {"version": artstore.__version__}
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"artstore {artstore.__version__}\n")
    ran = subprocess.run(
        [sys.executable, "-m", "artstore_cli", "version"], capture_output=True, text=True, check=True
    )
    assert ran.stdout == f"{artstore.__version__}\n"


def test_token_prints_the_token_alone(cli: Cli, home: Path) -> None:
    code, out, _ = cli("token", "--user", "ivanov", "--role", "operator", "--role", "reader")
    assert code == 0
    assert out.count("\n") == 1
    assert len(out.split(".")) == 3
    assert (home / "state" / "keys").is_dir()


def test_plugins(cli: Cli) -> None:
    rows = cli.json("plugins")
    chosen = {(r["role"], r["name"]): r["status"] for r in rows if r["chosen"]}
    filled = [("backend", "local"), ("naming", "dated"), ("cache", "sql"), ("wal", "files"), ("auth", "jwt")]
    assert chosen == dict.fromkeys(filled, "ok")
    code, out, err = cli("plugins")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split() == ["ROLE", "NAME", "STATUS", "PLUGIN", "VERSION"]
    assert "artstore:local" in out
    assert all(len(line) <= 80 for line in out.splitlines())


def test_one_plugin(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    row, log = cli.json("plugins", "sql")
    assert (row["role"], row["status"], row["chosen"]) == ("cache", "ok", True)
    assert (log["role"], log["status"], log["chosen"]) == ("wal", "ok", False)
    assert row["settings"]["properties"].keys() == {"url", "table_prefix", "timeout"}
    assert row["capabilities"] is None
    (row,) = cli.json("plugins", "local")
    assert row["capabilities"]["durable"] is True
    for name in ("sql", "local", "dated", "jwt"):
        code, out, err = cli("plugins", name)
        assert (code, err) == (0, "")
        assert all(len(line) <= 80 for line in out.splitlines()), out
    assert "ARTSTORE_AUTH__JWT__JWKS_URL" in cli("plugins", "jwt")[1]
    assert "nothing to set" in cli("plugins", "dated")[1]
    code, out, err = cli("plugins", "loacl")
    assert (code, out) == (78, "")
    assert "Did you mean 'local'?" in err


def test_plugins_reports_a_chosen_provider_that_does_not_exist(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARTSTORE_BACKEND", "locla")
    code, out, err = cli("plugins")
    assert code == 1
    assert "Did you mean 'local'?" in err
    assert "artstore:local" in out


def test_plugins_shows_who_accepted_missing_guarantees(cli: Cli, home: Path) -> None:
    (home / "artstore.toml").write_text(
        'backend = "fsspec"\n[backend.fsspec]\nurl = "memory://x"\nallow_missing_guarantees = true\n'
    )
    shown = {r["name"]: r["allows_missing_guarantees"] for r in cli.json("plugins") if r["role"] == "backend"}
    assert shown["fsspec"]
    assert not any(accepted for name, accepted in shown.items() if name != "fsspec")
    assert "(guarantees less than it should)" in " ".join(cli("plugins")[1].split())


def test_config(cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("config", "check") == (0, "The configuration is fine (no file).\n", "")
    home.mkdir(exist_ok=True)
    (home / "artstore.toml").write_text("[cache.sql]\nurl = 'sqlite:////secret.db'\n[server]\nport = 1234\n")
    monkeypatch.setenv("ARTSTORE_SERVER__HOST", "::1")
    assert cli.json("config", "check") == {"ok": True, "file": str(home / "artstore.toml")}
    shown = cli.json("config", "show")
    assert (shown["home"], shown["settings"]["server"]["port"]) == (str(home), 1234)
    assert shown["settings"]["cache"] == {
        "use": "sql", "sql": {"url": "**********", "table_prefix": "", "timeout": 5.0},
    }  # fmt: skip
    code, out, _ = cli("config", "show")
    assert code == 0
    assert "secret.db" not in out
    assert f"server.port = 1234  # {home / 'artstore.toml'}" in out
    assert 'server.host = "::1"  # ARTSTORE_SERVER__HOST' in out
    assert "server.workers = 1  # default" in out
    assert 'server.adapter = "starlette"  # default' in out
    assert "# limits.capacity is not set" in out


def test_a_home_that_cannot_be_read_is_78(cli: Cli) -> None:
    cli.home = cli.home / ("x" * 300)
    for command in (["config", "check"], ["serve"], ["token", "--user", "x", "--role", "user"]):
        code, _, err = cli(*command)
        assert (code, "It cannot be read: File name too long.\n  Let this user" in err) == (78, True)


def test_an_address_where_nothing_can_listen_is_78(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, err = cli("serve", "--port", str(taken.getsockname()[1]))
    assert (code, "Address already in use.\n  Stop what listens there" in err) == (78, True)
    code, _, err = cli("serve", "--host", "192.0.2.1")
    assert (code, "Name an address of this machine" in err) == (78, True)


def test_a_secret_from_a_file_is_shown_with_its_source_only(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "url").write_text("sqlite:////secret.db\n")
    monkeypatch.setenv("ARTSTORE_CACHE__SQL__URL_FILE", str(tmp_path / "url"))
    assert 'cache.sql.url = "**********"  # ARTSTORE_CACHE__SQL__URL_FILE\n' in cli("config", "show")[1]
    monkeypatch.delenv("ARTSTORE_CACHE__SQL__URL_FILE")
    (tmp_path / "in.toml").write_text(f"cache.sql.url_file = '{tmp_path / 'url'}'\n")
    assert (
        f'**********"  # {tmp_path / "in.toml"}'
        in cli("config", "show", "--config", str(tmp_path / "in.toml"))[1]
    )


@pytest.mark.parametrize("command", ["config", "db", "plugin"])
def test_a_missing_argument_is_named(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as usage:
        main([command])
    assert usage.value.code == 2
    assert re.search("required: (show|current|new)", capsys.readouterr().err)


@pytest.mark.parametrize("command", [["config", "check"], ["config", "show"], ["mode"]])
def test_an_adapter_that_does_not_exist_is_78(cli: Cli, home: Path, command: list[str]) -> None:
    (home / "artstore.toml").write_text("[server]\nadapter = 'django'\n")
    place = f"{home / 'artstore.toml'}: server.adapter"
    message = f"artstore: {place}: must be 'starlette' or 'falcon' (it is 'django').\n  See docs/configuration.md.\n"
    assert cli(*command) == (78, "", message)


@pytest.mark.parametrize("toml", [
    "mod = 'rw'", "backend = 'locla'", "[backend.locla]\nx = 1", "[backend.local]\nroto = '/x'", "mode = ",
])  # fmt: skip
@pytest.mark.parametrize("command", [["config", "check"], ["config", "show"], ["recover"], ["serve"]])
def test_a_wrong_configuration_is_78(cli: Cli, home: Path, toml: str, command: list[str]) -> None:
    home.mkdir(exist_ok=True)
    (home / "artstore.toml").write_text(toml)
    code, out, err = cli(*command)
    assert (code, out) == (78, "")
    assert err.startswith("artstore: ")
    assert "Traceback" not in err


def test_a_home_that_is_a_file_is_78(cli: Cli, home: Path) -> None:
    home.rmdir()
    home.write_text("a file")
    code, _, err = cli("recover")
    assert code == 78
    assert "--home" in err


@pytest.mark.parametrize(
    "command",
    [["token", "--user", "a", "--role", "user"], ["verify"], ["rebuild"], ["recover"], ["wal"], ["mode"],
     ["mode", "ro"], ["db", "current"], ["db", "upgrade"], ["rekey"]],
)  # fmt: skip
def test_a_mistyped_home_is_reported_and_not_made(cli: Cli, home: Path, command: list[str]) -> None:
    home.rmdir()
    code, out, err = cli(*command)
    assert (code, out) == (78, "")
    assert f"There is no home {home}." in err
    assert not home.exists()


def test_recover_wal_and_mode(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARTSTORE_MODE", "rw")
    assert cli("recover")[:2] == (0, "Recovered: nothing to do.\n")
    assert cli.json("recover")["entries_written"] == 0
    assert cli("mode") == (0, "rw\n", "")
    assert cli("mode", "ro", "--reason", "full") == (0, "ro\n", "")
    assert cli.json("mode")["reason"] == "full"
    code, out, err = cli("mode", "rw")
    assert (code, out) == (1, "")
    assert "confirm" in err
    assert cli("mode", "edit")[0] == 1
    assert cli("mode", "rw", "--confirm")[:2] == (0, "rw\n")
    transactions = cli.json("wal")
    assert sorted(t["status"] for t in transactions) == [
        "committed",
        "committed",
        "rolled_back",
        "rolled_back",
    ]
    assert len(cli.json("wal", "--status", "committed")) == 2
    assert len(cli.json("wal", "--limit", "1")) == 1
    assert cli.json("wal", "--limit", "0") == []
    code, out, _ = cli("wal")
    assert code == 0
    assert out.splitlines()[0].split() == ["STARTED", "OPERATION", "STATUS", "BY", "FILE", "ERROR"]
    assert len(out.splitlines()) == 5


def test_openapi(cli: Cli) -> None:
    code, out, _ = cli("openapi")
    assert code == 0
    assert json.loads(out)["openapi"].startswith("3.1")


@pytest.mark.parametrize("source", ["environment", "option"])
def test_healthcheck_without_an_element_is_7(cli: Cli, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    port = str(free_port())
    if source == "environment":
        monkeypatch.setenv("ARTSTORE_SERVER__PORT", port)
    code, out, err = cli("healthcheck", *(["--port", port] if source == "option" else []))
    assert (code, out) == (7, "")
    assert err.endswith(f":{port}: Connection refused.\n")


def test_a_closed_pipe_is_no_error(home: Path) -> None:
    command = f"{sys.executable} -W error -m artstore_cli openapi --home {home} | head -c 1"
    ran = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("{", "")


def test_home_may_stand_before_the_command(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--home", str(home), "config", "show"]) == 0
    assert f"# home: {home}" in capsys.readouterr().out


def test_options_of_a_file_system_are_not_shown(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home.mkdir(exist_ok=True)
    (home / "artstore.toml").write_text(
        'backend = "fsspec"\n[backend.fsspec]\nurl = "sftp://host/path"\n'
        '[backend.fsspec.options]\npassword = "hunter2"\n'
    )
    for form in ([], ["--json"]):
        assert main(["--home", str(home), "config", "show", *form]) == 0
        shown = capsys.readouterr().out
        assert "password" in shown
        assert "hunter2" not in shown
    (home / "artstore.toml").write_text(
        'backend = "fsspec"\n[backend.fsspec]\nurl = "sftp://host/path"\noptions = ["hunter2"]\n'
    )
    assert main(["--home", str(home), "config", "check"]) == 78
    assert "hunter2" not in capsys.readouterr().err
