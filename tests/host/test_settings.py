"""Where settings come from, which source wins, and how wrong settings are refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from artstore.errors import ConfigError
from artstore.host.roles import ROLES
from artstore.host.settings import Configuration, Settings, load, validate
from artstore.modes import Mode


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def read(
    home: Path, toml: str = "", environ: Mapping[str, str] | None = None, **overrides: Any
) -> Configuration:
    (home / "artstore.toml").write_text(toml, encoding="utf-8")
    dotted = {k.replace("__", "."): v for k, v in overrides.items()}
    return load(home=home, environ=environ or {}, overrides=dotted)


def fails(home: Path, toml: str = "", environ: Mapping[str, str] | None = None, **overrides: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        read(home, toml, environ, **overrides)
    return str(refused.value)


def test_an_empty_configuration_has_defaults(home: Path) -> None:
    found = load(home=home, environ={})
    assert found.settings == Settings()
    assert (found.home, found.file) == (home, None)
    assert found.settings.mode is Mode.EDIT
    assert (found.settings.server.host, found.settings.server.port) == ("127.0.0.1", 8010)
    used = {role: getattr(found.settings, role).use for role in ("backend", "naming", "cache", "auth")}
    assert used == {"backend": "local", "naming": "dated", "cache": "sql", "auth": "jwt"}


def test_command_line_before_environment_before_file_before_default(home: Path) -> None:
    toml = "[server]\nport = 1\nhost = 'file'\nworkers = 3\n"
    environ = {"ARTSTORE_SERVER__PORT": "2", "ARTSTORE_SERVER__HOST": "env"}
    server = read(home, toml, environ, server__port=4).settings.server
    assert (server.port, server.host, server.workers, server.threads) == (4, "env", 3, 32)
    sources = read(home, toml, environ, server__port=4).sources
    assert sources["server.port"] == "--port"
    assert sources["server.host"] == "ARTSTORE_SERVER__HOST"
    assert sources["server.workers"] == str(home / "artstore.toml")


def test_the_file_is_searched_for_in_order(home: Path, tmp_path: Path) -> None:
    for name in ("flag", "env"):
        (tmp_path / f"{name}.toml").write_text(f'display_name = "{name}"')
    (home / "artstore.toml").write_text('display_name = "home"')
    environ = {"ARTSTORE_CONFIG": str(tmp_path / "env.toml"), "ARTSTORE_HOME": str(home)}
    assert load(config=tmp_path / "flag.toml", environ=environ).settings.display_name == "flag"
    assert load(environ=environ).settings.display_name == "env"
    assert load(environ={"ARTSTORE_HOME": str(home)}).settings.display_name == "home"
    for missing in ({"config": tmp_path / "no"}, {"environ": {"ARTSTORE_CONFIG": "/no/such"}}):
        with pytest.raises(ConfigError, match="There is no file"):
            load(**missing)  # type: ignore[arg-type]


@pytest.mark.parametrize(("toml", "parts"), [
    ("mod = 'rw'", ["artstore.toml: mod", "no setting 'mod'", "Did you mean 'mode'?"]),
    ("[sever]\nport = 1", ["artstore.toml: sever", "Did you mean 'server'?"]),
    ("[server]\nprot = 1", ["artstore.toml: server.prot", "Did you mean 'port'?"]),
    ("[limits]\nmax_filesize = 1", ["limits.max_filesize", "Did you mean 'max_file_size'?"]),
    ("[server]\nport = 'x'", ["artstore.toml: server.port", "'x'"]),
    ("[server]\nport = 65536", ["server.port", "65535"]),
    ("[limits]\ncapacity = 'lots'", ["limits.capacity", "'lots'"]),
    ("mode = 'off'", ["artstore.toml: mode", "'edit'"]),
    ("element_id = 'a/b'", ["element_id"]),
    ("server = 3", ["artstore.toml: server"]),
    ("mode = \n", ["artstore.toml: It is not valid TOML", "line 1"]),
    ("a = 1\na = 2\n", ["not valid TOML", "line 2"]),
    ("x = \udcff", ["artstore.toml: It cannot be read"]),
    ("backend = 3", ["artstore.toml: backend"]),
    ("[server]\nthreads = 0", ["server.threads"]),
    ("[server]\nport = 0", ["server.port"]),
    ("[server]\nshutdown_timeout = inf", ["server.shutdown_timeout", "86400"]),
    ("[server]\nroot_path = 'store'", ["server.root_path"]),
    ("[server]\nroot_path = '/a b'", ["server.root_path"]),
    ("[server]\nroot_path = '//'", ["server.root_path"]),
    ("[server]\ncors_origins = ['*']", ["server.cors_origins"]),
    ("[server]\ncors_origins = ['https://app.example.org/']", ["server.cors_origins"]),
    ("[server]\ncors_origins = ['app.example.org']", ["server.cors_origins"]),
    ("[limits]\nmax_file_size = '1,5 GiB'", ["limits.max_file_size: must be a number of bytes", "'1,5 GiB'"]),
    ("[limits]\ncapacity = '1,000 GB'", ["limits.capacity: must be"]),
    ("[limits]\nmin_free = '5 GB of it'", ["limits.min_free: must be"]),
])  # fmt: skip
def test_a_wrong_file_is_refused_with_its_place(home: Path, toml: str, parts: list[str]) -> None:
    (home / "artstore.toml").write_bytes(toml.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError) as refused:
        load(home=home, environ={})
    for part in parts:
        assert part in str(refused.value)


@pytest.mark.parametrize(("name", "value", "part"), [
    ("ARTSTORE_MOD", "rw", "Did you mean 'ARTSTORE_MODE'?"),
    ("ARTSTORE_SERVER__PRT", "1", "Did you mean 'port'?"),
    ("ARTSTORE_SEVER__PORT", "1", "Did you mean 'ARTSTORE_SERVER'?"),
    ("ARTSTORE_SERVER__", "1", "sets nothing"),
    ("ARTSTORE_", "1", "sets nothing"),
    ("ARTSTORE_SERVER__PORT", "many", "'many'"),
    ("ARTSTORE_SERVER__PORT__X", "1", ""),
    ("ARTSTORE_SERVER", "1", ""),
    ("ARTSTORE_ELEMENT_ID_FILE", "/no/such/file", "/no/such/file cannot be read: No such file or directory."),
    ("ARTSTORE_PLUGINS", "off", "It can only be 'none'."),
])  # fmt: skip
def test_a_wrong_variable_is_refused_by_its_name(home: Path, name: str, value: str, part: str) -> None:
    message = fails(home, environ={name: value})
    assert message.startswith(name)
    assert part in message


def test_other_variables_are_ignored(home: Path) -> None:
    environ = {"PATH": "x", "ARTS": "y", "ARTSTORE_PLUGINS": "none", "ARTSTORE_HOME": "z", "artstore_x": "1"}
    assert read(home, environ=environ).settings == Settings()


def test_a_role_is_named_and_its_provider_set_in_one_file(home: Path) -> None:
    toml = """
        mode = "rw"
        backend = "s3"      # what people write
        cache = 'sql'
        [backend.s3]
        bucket = "docs"
        [backend.local]
        root = "/x"
        [cache.sql]
        table_prefix = "a_"
    """
    settings = read(home, toml).settings
    assert settings.backend.use == "s3"
    assert settings.backend.table("s3") == {"bucket": "docs"}
    assert sorted(settings.backend.tables()) == ["local", "s3"]
    assert (settings.cache.use, settings.cache.table("sql")) == ("sql", {"table_prefix": "a_"})
    assert settings.naming.table("dated") == {}


def test_a_table_alone_sets_the_default_provider(home: Path) -> None:
    settings = read(home, "[backend.local]\nroot = '/x'").settings
    assert (settings.backend.use, settings.backend.table("local")) == ("local", {"root": "/x"})


def test_a_role_in_the_environment(home: Path) -> None:
    environ = {"ARTSTORE_BACKEND": "s3", "ARTSTORE_BACKEND__S3__BUCKET": "docs"}
    settings = read(home, "backend = 'local'\n[backend.s3]\nbucket = 'x'\nprefix = 'p'", environ).settings
    assert settings.backend.use == "s3"
    assert settings.backend.table("s3") == {"bucket": "docs", "prefix": "p"}


def test_a_text_that_only_looks_like_a_role_is_not_rewritten(home: Path) -> None:
    settings = read(home, 'display_name = "x"\n# backend = "s3"\n[plugins]\nblock = ["a:b"]\n').settings
    assert (settings.backend.use, settings.plugins.block) == ("local", ["a:b"])


def test_a_home_has_one_path(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(home)
    monkeypatch.chdir(home)
    for name in (home, tmp_path / "link", home / ".." / home.name, Path("."), Path("..") / home.name):
        assert load(home=name, environ={}).home == home
    assert load(home=tmp_path / "link" / "new", environ={}).home == home / "new"


def test_a_file_may_begin_with_a_byte_order_mark(home: Path) -> None:
    assert read(home, "\ufeffmode = 'rw'").settings.mode is Mode.RW


@pytest.mark.parametrize(("text", "size"), [
    ("5 GiB", 5 << 30), ("5GiB", 5 << 30), ("1 TiB", 1 << 40), ("10 MB", 10_000_000), ("1024", 1024), ("1.5 KiB", 1536),
])  # fmt: skip
def test_sizes_may_have_units(home: Path, text: str, size: int) -> None:
    assert read(home, f"[limits]\nmax_file_size = '{text}'").settings.limits.max_file_size == size
    environ = {"ARTSTORE_LIMITS__CAPACITY": text}
    assert read(home, environ=environ).settings.limits.capacity == size


def test_a_list_in_a_variable_has_commas(home: Path) -> None:
    environ = {"ARTSTORE_PLUGINS__BLOCK": "a:b, c:d,", "ARTSTORE_PLUGINS__STRICT": "true"}
    plugins = read(home, environ=environ).settings.plugins
    assert (plugins.block, plugins.strict) == (["a:b", "c:d"], True)


class Provider(BaseModel, extra="forbid"):
    """Settings such as a provider has."""

    url: SecretStr | None = None
    key_file: Path | None = None
    secret_key: int = 0


def provider(configuration: Configuration) -> Provider:
    role = configuration.settings.backend
    return validate(Provider, role.table(role.use), configuration.sources, f"backend.{role.use}")


def test_secrets_come_from_files(home: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("postgres://user:pass\n")
    for found in (
        read(home, f"backend = 'x'\n[backend.x]\nurl_file = '{secret}'\nkey_file = '/k'"),
        read(
            home,
            "backend = 'x'",
            {"ARTSTORE_BACKEND__X__URL_FILE": str(secret), "ARTSTORE_BACKEND__X__KEY_FILE": "/k"},
        ),
    ):
        made = provider(found)
        assert made.url is not None
        assert made.url.get_secret_value() == "postgres://user:pass"
        assert made.key_file == Path("/k")
        assert "pass" not in repr(made)


def test_a_value_and_a_file_obey_the_same_order(home: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("from the file")
    found = read(
        home,
        f"backend = 'x'\n[backend.x]\nurl_file = '{secret}'",
        {"ARTSTORE_BACKEND__X__URL": "from the environment"},
    )
    assert provider(found).url == SecretStr("from the environment")
    found = read(
        home, "backend = 'x'\n[backend.x]\nurl = 'x'", {"ARTSTORE_BACKEND__X__URL_FILE": str(secret)}
    )
    assert provider(found).url == SecretStr("from the file")


def test_a_wrong_secret_is_not_shown(home: Path) -> None:
    found = read(home, "backend = 'x'\n[backend.x]\nsecret_key = 'hunter2'")
    with pytest.raises(ConfigError) as refused:
        provider(found)
    assert "hunter2" not in str(refused.value)
    assert "backend.x.secret_key" in str(refused.value)


def test_an_unknown_setting_of_a_provider_is_refused(home: Path) -> None:
    found = read(home, "backend = 'x'\n[backend.x]\nulr = 'y'")
    with pytest.raises(ConfigError, match="Did you mean 'url'") as refused:
        provider(found)
    assert refused.value.place == f"{home / 'artstore.toml'}: backend.x.ulr"


def test_a_setting_of_a_section_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "port").write_text("8123\n", encoding="utf-8")
    loaded = load(home=tmp_path, environ={"ARTSTORE_SERVER__PORT_FILE": str(tmp_path / "port")})
    assert loaded.settings.server.port == 8123


def test_every_role_has_a_section() -> None:
    assert set(ROLES) <= set(Settings.model_fields)
    assert {role: getattr(Settings(), role).chosen() for role in ROLES} == {
        name: [role.default] if role.default else [] for name, role in ROLES.items()
    }
