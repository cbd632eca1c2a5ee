"""Joins the parts of one element: settings, plugins, providers, kernel. The only place that knows them all."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from artstore.backlog import Backlog
from artstore.element import RECORD, Element, recognise
from artstore.errors import ConfigError, NotFound, PluginError, ProviderFault, StorageFull, Unavailable
from artstore.host.guard import wrap
from artstore.host.plugins import Registry, plugin_rows
from artstore.host.settings import ROLES, Configuration, Settings, Tables, load, suggestion, validate
from artstore.ids import now
from artstore.kernel import Kernel
from artstore.locks import Locks
from artstore.maintenance.jobs import Jobs
from artstore.maintenance.verify import Survey
from artstore.observers import Observers, Queue
from artstore.parts import Parts
from artstore.posix import translate_startup_errors
from artstore.recovery import Report
from artstore.spi import (
    Auth,
    Cache,
    Context,
    Coordination,
    Log,
    Naming,
    RecoverableBackend,
    SingleNode,
    SupportsClaim,
    SupportsMigration,
)
from artstore_http.metrics import Metrics


@dataclass(slots=True)
class Node:
    """One element, running in this process."""

    configuration: Configuration
    registry: Registry
    kernel: Kernel
    auth: Auth
    jobs: Jobs
    metrics: Metrics
    report: Report

    @property
    def settings(self) -> Settings:
        return self.configuration.settings

    def plugin_rows(self) -> list[dict[str, Any]]:
        """What `artstore plugins --json` and the API say."""
        return plugin_rows(self.registry, self.settings)

    def close(self) -> None:
        """Leave everything durable and settled."""
        self.jobs.close()
        self.kernel.close()
        self.kernel.observers.close()
        self.auth.close()
        self.metrics.close()


def open_registry(settings: Settings, *, strangers: bool = True) -> Registry:
    """The plugins of this installation. Raises `PluginError`."""
    registry, chosen = Registry(), settings.plugins
    registry.load(block=chosen.block, strict=chosen.strict, strangers=strangers)
    return registry


def context(configuration: Configuration) -> Context:
    """What providers are told; makes the home."""
    home = configuration.home
    made = Context(home=home, files=home / "files", state=home / "state")
    with translate_startup_errors(home, "home"):
        made.state.mkdir(mode=0o750, parents=True, exist_ok=True)
    return made


def provider_settings(role: str, configuration: Configuration, registry: Registry) -> dict[str, BaseModel]:
    """The providers chosen for a role by name, each before the one that it wraps (`inner`), with their settings,
    checked. Raises `ConfigError`, `PluginError`."""
    tables: Tables = getattr(configuration.settings, role)
    offered = {o.provider.name for o in registry.offers if o.role == role}
    for name in tables.tables():
        if name not in offered:
            raise ConfigError(
                f"There is no {role} '{name}' to set.",
                place=f"[{role}.{name}]",
                cure=suggestion(name, offered | set(type(tables).model_fields)),
            )
    found: dict[str, BaseModel] = {}
    ahead = [(name, role) for name in tables.chosen()]
    while ahead:
        name, place = ahead.pop(0)
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
            raise _faulty(registry, role, name, "cannot check its settings", e) from e
        if "inner" in model.model_fields:
            ahead.append((found[name].inner, f"{role}.{name}.inner"))  # type: ignore[attr-defined]
    return found


def build(role: str, configuration: Configuration, registry: Registry, told: Context) -> Any:
    """The provider chosen for a role, and those that it wraps, built. Raises `ConfigError`, `PluginError`,
    `Unavailable`."""
    settings = provider_settings(role, configuration, registry)
    built: Any = None
    for name in reversed(settings):
        try:
            built = _build(role, name, settings[name], registry, replace(told, inner=built))
        except BaseException:
            if built is not None:
                built.close()
            raise
    return built


def _build(role: str, name: str, settings: BaseModel, registry: Registry, told: Context) -> Any:
    try:
        provider = registry.choose(role, name)(settings, told)
        return wrap(provider, role, f"The {role} '{name}' of {registry.offer(role, name).plugin}")
    except ProviderFault as e:
        raise PluginError(e.detail, place=f"{role}.{name}") from e
    except (ConfigError, NotFound, StorageFull, Unavailable):
        raise
    except (Exception, SystemExit) as e:
        raise _faulty(registry, role, name, "failed to build", e) from e


def _faulty(registry: Registry, role: str, name: str, what: str, error: BaseException) -> PluginError:
    plugin = registry.offer(role, name).plugin
    return PluginError(f"{plugin} {what}: {type(error).__name__}: {error}.", place=f"{role}.{name}")


def build_observers(configuration: Configuration, registry: Registry, told: Context) -> Observers:
    """Those that have settings, each with its line. Raises `ConfigError`, `PluginError`, `Unavailable`."""
    lines: list[Queue] = []
    try:
        for name, settings in provider_settings("observer", configuration, registry).items():
            lines.append(Queue(name, _build("observer", name, settings, registry, told)))
    except BaseException:
        Observers(lines).close()
        raise
    return Observers(lines)


def build_log(configuration: Configuration, registry: Registry, told: Context) -> Log:
    """The log that was chosen, or the kernel's own. Raises `ConfigError`, `PluginError`, `Unavailable`."""
    log: Log = build("wal", configuration, registry, told)
    return log


def open_log(configuration: Configuration) -> Log:
    """The log alone, for reading. Raises `ConfigError`, `Unavailable`."""
    told = replace(context(configuration), read_only=True)
    return build_log(configuration, open_registry(configuration.settings), told)


def migrate(configuration: Configuration, target: str | None) -> str | None:
    """Move the schema of the cache to `target` (None: leave it); where it is then. Raises `ConfigError`."""
    registry, use = open_registry(configuration.settings), configuration.settings.cache.use
    provider = registry.choose("cache", use)
    if not isinstance(provider, SupportsMigration):
        raise ConfigError(f"The cache '{use}' has no schema to move.", place="cache")
    settings = provider_settings("cache", configuration, registry)[use]
    return provider.migrate(settings, context(configuration), target)


def open_auth(configuration: Configuration) -> Auth:
    """Only the auth of an element: for `artstore token`. Raises `ConfigError`, `Unavailable`."""
    auth: Auth = build("auth", configuration, open_registry(configuration.settings), context(configuration))
    return auth


def open_backend(configuration: Configuration) -> RecoverableBackend:
    """Only the backend of an element: for `artstore rekey`. Raises `ConfigError`, `Unavailable`."""
    registry = open_registry(configuration.settings)
    backend: RecoverableBackend = build("backend", configuration, registry, context(configuration))
    return backend


def open_node(configuration: Configuration) -> Node:
    """Open the element and recover it; on return it may serve. Raises `ConfigError`, `Unavailable`."""
    settings = configuration.settings
    registry = open_registry(settings)
    told = context(configuration)
    built: list[Any] = []
    try:
        for role in ROLES:
            built.append(build(role, configuration, registry, told))
        backend, naming, cache, wal, auth = built
        coordination = wal if isinstance(wal, Coordination) else SingleNode()
        locks = Locks(told.state / "locks")
        element = Element(backend, locks)
        built.append(element)
        with coordination.exclusive("element"):
            element.open(
                element_id=settings.element_id,
                naming=settings.naming.use,
                mode=settings.mode,
                fallback_id=f"se-{secrets.token_hex(4)}",
                at=now(),
            )
        told = replace(told, element_id=element.record().element_id)
        for part in (cache, wal):
            if isinstance(part, SupportsClaim):
                part.claim(told.element_id)
        observers = build_observers(configuration, registry, told)
        built.append(observers)
        parts = Parts(
            backend=backend,
            cache=cache,
            naming=naming,
            log=wal,
            coordination=coordination,
            locks=locks,
            element=element,
            limits=settings.limits,
        )
        kernel = Kernel(parts, Backlog(parts, told.state / "index-pending"), observers)
        jobs = Jobs(told.state / "jobs", coordination)
        report = kernel.recover()
        if report.rebuilt:
            jobs.set_position("")  # of another cache than this
        metrics = Metrics(told.state / "metrics")
        kernel.start()
    except BaseException:
        for provider in reversed(built):
            close = getattr(provider, "close", None)  # a naming has nothing to close
            if close is not None:
                close()
        raise
    return Node(configuration, registry, kernel, auth, jobs, metrics, report)


@contextmanager
def surveying(
    configuration: Configuration, *, since: datetime | None = None, digests: bool = False
) -> Iterator[Survey]:
    """A survey of the store as it lies, beside an element that serves it or without one. Nothing is made, settled or
    claimed. Raises `ConfigError`, `Unavailable`."""
    settings = configuration.settings
    registry = open_registry(settings)
    home = configuration.home
    told = Context(home=home, files=home / "files", state=home / "state", read_only=True)
    with ExitStack() as stack:
        backend: RecoverableBackend = build("backend", configuration, registry, told)
        stack.callback(backend.close)
        naming: Naming = build("naming", configuration, registry, told)
        document = backend.read_document(RECORD)
        if document is not None:
            recognise(document, element_id=settings.element_id, naming=settings.naming.use)
        survey = Survey(
            backend=backend,
            naming=naming,
            cache=None,
            since="" if since is None else naming.directory_at(since),
            digests=digests,
            tolerant=True,
        )
        if not backend.capabilities.lists_uploads and told.state.is_dir():
            with suppress(NotFound):  # where there is no log yet, nothing was begun
                survey.log = build_log(configuration, registry, told)
                stack.callback(survey.log.close)
        try:
            cache: Cache = build("cache", configuration, registry, told)
        except NotFound:
            survey.compared = "there is none yet"
        except Unavailable as e:
            survey.compared, survey.unreachable = e.detail.removesuffix("."), True
        else:
            stack.callback(cache.close)
            survey.cache = cache
        yield survey


def open_default(home: Path | None = None) -> Node:
    """The element that file and environment describe: for servers that load an app by its name."""
    return open_node(load(home=home))
