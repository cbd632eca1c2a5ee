"""The loader: a broken plugin is reported and disturbs no other. Real distributions on `sys.path`."""

from __future__ import annotations

import logging
import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from typing import Any

import pytest

from artstore.errors import ConfigError, PluginError
from artstore.host.plugin_list import plugin_rows, used_providers
from artstore.host.plugins import Registry
from artstore.host.providers import build
from artstore.host.settings import Configuration, Settings
from artstore.testing import make_context

OFFER = """
    from artstore.hookspecs import Provider, hookimpl
    @hookimpl
    def artstore_backends():
        return [Provider(name="{name}", target="{module}:Mine", summary="s", extra={extra!r})]
    from pydantic import BaseModel
    class Mine:
        API = {api}
        class Settings(BaseModel): pass
"""

Install = Callable[..., str]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    before = set(sys.modules)
    sys.path.insert(0, str(tmp_path))
    yield tmp_path
    sys.path.remove(str(tmp_path))
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def install(place: Path) -> Install:
    """Puts a distribution with one plugin on `sys.path`: `install("acme", code)`; its plugin is `acme:x`."""

    def install(distribution: str, code: str = OFFER, **fill: object) -> str:
        module = f"{distribution.replace('-', '_')}_module"
        fill = {"name": distribution, "module": module, "extra": None, "api": 1} | fill
        for name, value in fill.items():
            code = code.replace(f"{{{name}}}", str(value)).replace(f"{{{name}!r}}", repr(value))
        (place / f"{module}.py").write_text(textwrap.dedent(code))
        information = place / f"{distribution}-1.2.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        (information / "entry_points.txt").write_text(f"[artstore]\nx = {module}\n")
        return module

    return install


def points(place: Path) -> list[EntryPoint]:
    return [p for d in distributions(path=[str(place)]) for p in d.entry_points if p.group == "artstore"]


def load(place: Path, **options: object) -> Registry:
    registry = Registry()
    registry.load(points(place), **options)  # type: ignore[arg-type]
    return registry


def test_a_provider_is_imported_only_when_it_is_chosen(place: Path, install: Install) -> None:
    module = install("acme", OFFER.replace("{module}", "{module}_late"))
    (place / f"{module}_late.py").write_text((place / f"{module}.py").read_text())
    registry = load(place)
    (offer,) = registry.offers
    assert (offer.role, offer.provider.name, offer.plugin, offer.version) == (
        "backend",
        "acme",
        "acme:x",
        "1.2",
    )
    assert f"{module}_late" not in sys.modules
    assert registry.choose("backend", "acme").__name__ == "Mine"


def test_our_own_plugins_are_found() -> None:
    registry = Registry()
    registry.load()
    found = {(o.role, o.provider.name): o.distribution for o in registry.offers}
    for role, name in (("backend", "local"), ("naming", "dated"), ("cache", "sql"), ("auth", "jwt")):
        assert found[role, name] == "artstore"
        assert registry.choose(role, name).API == 1


@pytest.mark.parametrize(("code", "problem"), [
    ("import no_such_library", "No module named 'no_such_library'"),
    ("1 / 0", "ZeroDivisionError"),
    ("raise SystemExit(3)", "SystemExit"),
    ("def f(:", "SyntaxError"),
    ("def artstore_backends(): raise RuntimeError('boom')", "boom"),
    ("def artstore_backends(): return None", "NoneType"),
    ("def artstore_backends(): return ['local']", "must give Provider records, not 'local'"),
    ("def artstore_backends(): return [{'name': 'x'}]", "must give Provider records"),
    ("from artstore.hookspecs import hookimpl\n@hookimpl\ndef artstore_comitted(op): ...", "artstore_comitted"),
    ("from artstore.hookspecs import hookimpl\n@hookimpl\ndef artstore_backends(oops): ...", "oops"),
])  # fmt: skip
def test_a_broken_plugin_is_reported_and_disturbs_no_other(
    place: Path, install: Install, code: str, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    install("a-good")
    install("b-broken", code)
    install("c-good")
    with caplog.at_level(logging.WARNING):
        registry = load(place)
    assert {p.name: p.status for p in registry.plugins} == {
        "a-good:x": "ok",
        "b-broken:x": "broken",
        "c-good:x": "ok",
    }
    assert problem in registry.plugins[1].problem
    assert "b-broken:x is broken" in caplog.text
    assert {o.provider.name for o in registry.offers} == {"a-good", "c-good"}
    with pytest.raises(PluginError, match="b-broken:x is broken"):
        registry.choose("backend", "b-broken")
    with pytest.raises(PluginError) as strict:
        load(place, strict=True)
    assert 'block = ["b-broken:x"]' in strict.value.cure
    assert problem in str(strict.value)
    assert {p.status for p in load(place, strict=True, block=["b-broken:x"]).plugins} == {"ok", "blocked"}


def test_two_offers_of_one_name_are_an_error_that_names_both(place: Path, install: Install) -> None:
    install("one", name="store")
    install("two", name="store")
    install("three")
    registry = load(place)
    assert {o.plugin: o.status for o in registry.offers} == {
        "one:x": "clash",
        "two:x": "clash",
        "three:x": "ok",
    }
    with pytest.raises(PluginError, match="one:x and by two:x") as clash:
        registry.choose("backend", "store")
    assert "block" in clash.value.cure
    assert registry.choose("backend", "three")
    assert load(place, block=["one:x"]).choose("backend", "store").__module__ == "two_module"


def test_an_unknown_provider_is_refused_with_a_suggestion(place: Path, install: Install) -> None:
    install("acme")
    registry = load(place)
    with pytest.raises(PluginError, match="Nothing offers a backend 'amce'") as unknown:
        registry.choose("backend", "amce")
    assert unknown.value.cure == "Did you mean 'acme'?"
    with pytest.raises(PluginError) as unknown:
        registry.choose("cache", "acme")
    assert unknown.value.place == "cache"


@pytest.mark.parametrize("api", [0, 2, None, "'1'"])
def test_a_provider_for_another_api_is_refused(place: Path, install: Install, api: object) -> None:
    install("acme", api=api)
    registry = load(place)
    with pytest.raises(PluginError, match="API") as wrong:
        registry.choose("backend", "acme")
    assert "Install a version of acme" in wrong.value.cure
    assert registry.offers[0].status == "wrong API"


def test_a_missing_extra_is_refused_with_the_command_that_installs_it(place: Path, install: Install) -> None:
    module = install("acme", OFFER.replace("{module}", "{module}_late"), extra="fast")
    (place / f"{module}_late.py").write_text("import no_such_library")
    registry = load(place)
    with pytest.raises(PluginError, match="no_such_library") as missing:
        registry.choose("backend", "acme")
    assert missing.value.cure == "pip install 'acme[fast]'"
    assert registry.offers[0].status == "missing extra"


@pytest.mark.parametrize("code", ["1 / 0", "raise SystemExit", "", "class Mine: API = 1", "Mine = 5"])
def test_a_provider_without_a_usable_class_is_refused(place: Path, install: Install, code: str) -> None:
    module = install("acme", OFFER.replace("{module}", "{module}_late"))
    (place / f"{module}_late.py").write_text(code)
    with pytest.raises(PluginError, match="acme"):
        load(place).choose("backend", "acme")


def test_plugins_of_other_distributions_can_be_switched_off(
    place: Path, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("acme", "1 / 0")
    monkeypatch.setenv("ARTSTORE_PLUGINS", "none")
    registry = Registry()
    registry.load(strict=True)
    assert {p.distribution for p in registry.plugins if p.status == "ok"} == {"artstore"}
    assert [p.status for p in registry.plugins if p.distribution == "acme"] == ["blocked"]


def test_blocking_an_unknown_plugin_is_an_error(place: Path, install: Install) -> None:
    install("acme")
    with pytest.raises(PluginError) as unknown:
        load(place, block=["acme:y"])
    assert unknown.value.cure == "Did you mean 'acme:x'?"


WRAPPERS = """
    from artstore.hookspecs import Provider, hookimpl
    from pydantic import BaseModel
    from artstore.testing import MemoryBackend
    closed = []
    @hookimpl
    def artstore_backends():
        names = {"outer": "Wrapper", "twin": "Wrapper", "core": "Core", "stiff": "Stiff"}
        return [Provider(name=n, target=f"{module}:{c}", summary="s") for n, c in names.items()]
    class Core(MemoryBackend):
        class Settings(BaseModel, extra="forbid"):
            root: str = "here"
        def __init__(self, settings, context):
            super().__init__()
            self.settings, self.inner = settings, context.inner
        def close(self):
            closed.append("core")
    class Wrapper(Core):
        class Settings(BaseModel, extra="forbid"):
            inner: str = "core"
    class Stiff(Wrapper):
        def __init__(self, settings, context):
            raise ValueError("no")
"""


@pytest.fixture
def wrap(place: Path, install: Install) -> Callable[..., Any]:
    install("acme", WRAPPERS)

    def wrap(settings: dict[str, Any]) -> Any:
        configuration = Configuration(
            home=place, file=None, settings=Settings.model_validate({"backend": settings})
        )
        return build("backend", configuration, load(place), make_context(place / "home"))

    return wrap


def test_a_wrapper_receives_the_provider_that_it_wraps(wrap: Callable[..., Any]) -> None:
    built = wrap({"use": "twin", "twin": {"inner": "outer"}, "core": {"root": "there"}})
    assert (built.settings.inner, built.inner.settings.inner) == ("outer", "core")
    assert built.inner.inner.settings.root == "there"
    assert built.inner.inner.inner is None


@pytest.mark.parametrize(
    ("settings", "at", "reported"),
    [
        ({"use": "outer", "outer": {"inner": "outer"}}, "backend.outer.inner", "outer -> outer"),
        ({"use": "outer", "outer": {"inner": "twin"}, "twin": {"inner": "outer"}},
         "backend.twin.inner", "outer -> twin -> outer"),
        ({"use": "outer", "outer": {"inner": "cor"}}, "backend.outer.inner", "Did you mean 'core'?"),
        ({"use": "outer", "core": {"rot": "x"}}, "backend.core.rot", "Did you mean 'root'?"),
        ({"use": "outer", "outer": {"iner": "x"}}, "backend.outer.iner", "Did you mean 'inner'?"),
    ],
)  # fmt: skip
def test_a_wrapper_around_itself_or_nothing_is_refused(
    wrap: Callable[..., Any], settings: dict[str, Any], at: str, reported: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        wrap(settings)
    assert caught.value.place == at
    assert reported in str(caught.value)


def test_a_wrapped_provider_counts_as_chosen(place: Path, install: Install) -> None:
    install("acme", WRAPPERS)
    registry = load(place)
    settings = Settings.model_validate({"backend": {"use": "twin", "twin": {"inner": "outer"}}})
    assert used_providers(registry, "backend", settings.backend) == ["twin", "outer", "core"]
    chosen = {r["name"] for r in plugin_rows(registry, settings) if r["role"] == "backend" and r["chosen"]}
    assert chosen == {"twin", "outer", "core"}
    circle = Settings.model_validate({"backend": {"use": "outer", "outer": {"inner": "outer"}}})
    assert used_providers(registry, "backend", circle.backend) == ["outer"]
    astray = Settings.model_validate({"backend": {"use": "outer", "outer": {"inner": "tape"}}})
    assert used_providers(registry, "backend", astray.backend) == ["outer", "tape"]


def test_a_wrapped_provider_is_closed_when_its_wrapper_fails(wrap: Callable[..., Any]) -> None:
    with pytest.raises(PluginError, match="ValueError: no"):
        wrap({"use": "stiff"})
    assert sys.modules["acme_module"].closed == ["core"]


def test_a_missing_extra_is_noticed_without_an_import(place: Path, install: Install) -> None:
    module = install("acme", OFFER.replace("{module}", "{module}_late"), extra="fast")
    (place / f"{module}_late.py").write_text("import no_such_library")
    with (place / "acme-1.2.dist-info" / "METADATA").open("a") as metadata:
        metadata.write("Requires-Dist: pydantic>=2\nRequires-Dist: no-such-library>=1; extra == 'fast'\n")
        metadata.write('Requires-Dist: neither; extra == "slow"\nProvides-Extra: fast\n')
    (offer,) = load(place).offers
    assert offer.status == "missing extra"
    assert offer.problem == "needs no-such-library: pip install 'acme[fast]'"
    assert f"{module}_late" not in sys.modules
    (place / f"{module}_late.py").write_text((place / f"{module}.py").read_text())
    registry = load(place)
    assert registry.choose("backend", "acme")  # its libraries were installed in another way
    assert registry.offers[0].status == "ok"
