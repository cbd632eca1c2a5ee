"""From settings to providers: the one that a role's setting names, and those that it wraps, each behind a guard."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import BaseModel

from artstore.errors import ConfigError, NotFound, PluginError, ProviderFault, StorageFull, Unavailable
from artstore.host import store_record
from artstore.host.guard import wrap
from artstore.host.plugin_list import tables_of
from artstore.host.plugins import Registry
from artstore.host.settings import Configuration, Settings, suggestion, validate
from artstore.observers import Observers, Queue
from artstore.posix import translate_startup_errors
from artstore.spi import Context


def open_registry(settings: Settings, *, ours_only: bool = False) -> Registry:
    """Return the plugins of this installation. Raises `PluginError`."""
    registry, chosen = Registry(), settings.plugins
    registry.load(block=chosen.block, strict=chosen.strict, ours_only=ours_only)
    return registry


def make_context(configuration: Configuration) -> Context:
    """Make the home, and return what providers learn about the element. Raises as `translate_startup_errors` does."""
    context = read_only_context(configuration)
    with translate_startup_errors(configuration.home, "home"):
        context.state.mkdir(mode=0o750, parents=True, exist_ok=True)
    return replace(context, read_only=False)


def read_only_context(configuration: Configuration) -> Context:
    """Return the context of providers that are only inspected. Nothing is made. Raises as `make_context` does."""
    home, state = configuration.home, configuration.home / "state"
    expects_store = store_record.read(state) is not None
    return Context(home=home, files=home / "files", state=state, read_only=True, expects_store=expects_store)


def provider_settings(role: str, configuration: Configuration, registry: Registry) -> dict[str, BaseModel]:
    """Return the validated settings of each provider that is chosen for a role, by name.

    A provider stands before the one that it wraps (its setting `inner`). Raises `ConfigError`, `PluginError`.
    """
    tables = tables_of(configuration.settings, role)
    offered = {o.provider.name for o in registry.offers if o.role == role}
    for name in tables.tables():
        if name not in offered:
            raise ConfigError(
                f"There is no {role} '{name}' to set.",
                place=f"[{role}.{name}]",
                cure=suggestion(name, offered | set(type(tables).model_fields)),
            )
    found: dict[str, BaseModel] = {}
    to_check = [(name, role) for name in tables.chosen()]
    while to_check:
        name, place = to_check.pop(0)
        if name in found:
            raise ConfigError(
                f"A {role} cannot wrap itself: {' -> '.join([*found, name])}.",
                place=place,
                cure=f"Name the {role} that keeps the files in the end.",
            )
        model: type[BaseModel] = registry.choose(role, name, place=place).Settings
        try:
            found[name] = validate(model, tables.table(name), configuration.sources, f"{role}.{name}")
        except ConfigError:
            raise
        except Exception as e:
            raise _provider_error(registry, role, name, "cannot check its settings", e) from e
        if "inner" in model.model_fields:
            to_check.append((found[name].inner, f"{role}.{name}.inner"))  # type: ignore[attr-defined]
    return found


def build(role: str, configuration: Configuration, registry: Registry, context: Context) -> Any:
    """Build the provider that is chosen for a role, and those that it wraps, the innermost first.

    When one cannot be built, those that it would wrap are closed. Raises `ConfigError`, `PluginError`, `Unavailable`,
    `StorageFull`, and `NotFound` when `context.read_only` and the provider has nothing yet.
    """
    settings = provider_settings(role, configuration, registry)
    built: Any = None
    for name in reversed(settings):
        try:
            built = _build_one(role, name, settings[name], registry, replace(context, inner=built))
        except BaseException:
            if built is not None:
                built.close()
            raise
    return built


def build_observers(configuration: Configuration, registry: Registry, context: Context) -> Observers:
    """Build every observer that has settings, each with its own queue. Raises `ConfigError`, `PluginError`,
    `Unavailable`."""
    queues: list[Queue] = []
    try:
        for name, settings in provider_settings("observer", configuration, registry).items():
            queues.append(Queue(name, _build_one("observer", name, settings, registry, context)))
    except BaseException:
        Observers(queues).close()
        raise
    return Observers(queues)


def _build_one(role: str, name: str, settings: BaseModel, registry: Registry, context: Context) -> Any:
    try:
        provider = registry.choose(role, name)(settings, context)
        return wrap(provider, role, f"The {role} '{name}' of {registry.find_offer(role, name).plugin}")
    except ProviderFault as e:
        raise PluginError(e.detail, place=f"{role}.{name}") from e
    except (ConfigError, NotFound, StorageFull, Unavailable):
        raise
    except (Exception, SystemExit) as e:
        raise _provider_error(registry, role, name, "failed to build", e) from e


def _provider_error(registry: Registry, role: str, name: str, what: str, error: BaseException) -> PluginError:
    plugin = registry.find_offer(role, name).plugin
    return PluginError(f"{plugin} {what}: {type(error).__name__}: {error}.", place=f"{role}.{name}")
