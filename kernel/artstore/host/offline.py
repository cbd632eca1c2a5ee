"""Parts of an element for a command that does not need the whole: nothing is recovered here.

Each function raises `ConfigError`, `PluginError` and `Unavailable`. The caller closes what it opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime

from artstore.element import RECORD
from artstore.errors import ConfigError, NotFound, Unavailable
from artstore.host import store_record
from artstore.host.identity import recognise
from artstore.host.providers import build, make_context, open_registry, provider_settings, read_only_context
from artstore.host.settings import Configuration, Settings
from artstore.maintenance.verify import Survey
from artstore.spi import Auth, Cache, Context, Log, Naming, RecoverableBackend, SupportsMigration


def open_log(configuration: Configuration) -> Log:
    """Open the log, to read it. Raises `NotFound` when there is none yet."""
    context = read_only_context(configuration)
    log: Log = build("wal", configuration, open_registry(configuration.settings), context)
    return log


def open_auth(configuration: Configuration) -> Auth:
    """Open the auth, for `artstore token`. It may make its keys."""
    auth: Auth = build(
        "auth", configuration, open_registry(configuration.settings), make_context(configuration)
    )
    return auth


def open_backend(configuration: Configuration) -> RecoverableBackend:
    """Open the backend, for `artstore rekey`."""
    registry = open_registry(configuration.settings)
    context = make_context(configuration)
    backend: RecoverableBackend = build("backend", configuration, registry, context)
    try:
        _require_own_store(backend, context, configuration.settings)
    except BaseException:
        backend.close()
        raise
    return backend


def _require_own_store(backend: RecoverableBackend, context: Context, settings: Settings) -> None:
    """Raise `ConfigError` unless the store is that of this element, and the one that this home has served."""
    document, expected = backend.read_document(RECORD), store_record.read(context.state)
    if document is None and expected is None:
        return  # it was never served; or it is a copy of the files alone
    recognise(document, element_id=settings.element_id, naming=settings.naming.use, expected=expected)


def migrate(configuration: Configuration, target: str | None) -> str | None:
    """Move the schema of the cache to the revision `target`, and return its revision then. None changes nothing."""
    registry, name = open_registry(configuration.settings), configuration.settings.cache.use
    provider = registry.choose("cache", name)
    if not isinstance(provider, SupportsMigration):
        raise ConfigError(f"The cache '{name}' has no schema to move.", place="cache")
    settings = provider_settings("cache", configuration, registry)[name]
    return provider.migrate(settings, make_context(configuration), target)


@contextmanager
def open_survey(
    configuration: Configuration,
    *,
    since: datetime | None,
    digests: bool,
    on_progress: Callable[[Survey], None],
) -> Iterator[Survey]:
    """Open a survey of the store as it is now, for `artstore verify`: nothing is made, recovered or claimed.

    The element may be served meanwhile. A cache or a log that does not exist or does not answer is left out.
    """
    settings = configuration.settings
    registry = open_registry(settings)
    context = read_only_context(configuration)
    with ExitStack() as opened:
        backend: RecoverableBackend = build("backend", configuration, registry, context)
        opened.callback(backend.close)
        naming: Naming = build("naming", configuration, registry, context)
        _require_own_store(backend, context, settings)
        log: Log | None = None
        if context.state.is_dir():
            with suppress(NotFound):  # without a log, no change was begun
                log = build("wal", configuration, registry, context)
                opened.callback(log.close)
        cache: Cache | None = None
        cache_state, unreachable = "compared", False
        try:
            cache = build("cache", configuration, registry, context)
            opened.callback(cache.close)
        except NotFound:
            cache_state = "there is none yet"
        except Unavailable as e:
            cache_state, unreachable = e.detail.removesuffix("."), True
        yield Survey(
            backend=backend,
            naming=naming,
            cache=cache,
            log=log,
            since="" if since is None else naming.directory_at(since),
            digests=digests,
            tolerant=True,
            cache_state=cache_state,
            unreachable=unreachable,
            on_progress=on_progress,
        )
