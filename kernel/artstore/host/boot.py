"""Joins the parts of one element: settings, plugins, providers, kernel. No other module knows them all."""

from __future__ import annotations

import logging
import secrets
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from artstore.backlog import Backlog
from artstore.element import Element
from artstore.host import store_record
from artstore.host.identity import establish, forget_store
from artstore.host.plugin_list import plugin_rows
from artstore.host.plugins import Registry
from artstore.host.providers import build, build_observers, make_context, open_registry
from artstore.host.settings import Configuration, Settings, load
from artstore.host.store_record import StoreRecord
from artstore.ids import now
from artstore.kernel import Kernel
from artstore.ledger import Ledger
from artstore.limits import Limits
from artstore.locks import Locks
from artstore.maintenance.jobs import Jobs
from artstore.parts import Parts
from artstore.recovery import Report
from artstore.spi import (
    Auth,
    Cache,
    Coordination,
    Log,
    Naming,
    RecoverableBackend,
    SingleNode,
    SupportsClaim,
)

log = logging.getLogger("artstore.boot")


@dataclass(slots=True)
class Node:
    """One element, running in this process."""

    configuration: Configuration
    registry: Registry
    kernel: Kernel
    auth: Auth
    jobs: Jobs
    report: Report

    @property
    def settings(self) -> Settings:
        return self.configuration.settings

    def plugin_rows(self) -> list[dict[str, Any]]:
        """Return what `artstore plugins --json` and the HTTP API show of the plugins."""
        return plugin_rows(self.registry, self.settings)

    def close(self) -> None:
        """Finish the job that runs here, make everything durable, and close all parts. Open uploads are lost."""
        self.jobs.close()
        self.kernel.close()
        self.kernel.observers.close()
        self.auth.close()


def open_node(configuration: Configuration, *, joining: bool = False, new_store: bool = False) -> Node:
    """Open the element and recover it; on return it can serve. When a step fails, what was opened is closed.

    `joining`: other processes serve the element already, so a wrong clock is only logged. `new_store`: this home serves
    from now on what lies in the place of its store, which is not there any more. Raises `ConfigError`, `PluginError`,
    `Unavailable`, `StorageFull`.
    """
    settings = configuration.settings
    registry = open_registry(settings)
    context = make_context(configuration)
    expected = store_record.read(context.state)
    if new_store:
        context = replace(context, expects_store=False)
    with ExitStack() as opened:
        backend: RecoverableBackend = build("backend", configuration, registry, context)
        opened.callback(backend.close)
        naming: Naming = build("naming", configuration, registry, context)
        cache: Cache = build("cache", configuration, registry, context)
        opened.callback(cache.close)
        wal: Log = build("wal", configuration, registry, context)
        opened.callback(wal.close)
        auth: Auth = build("auth", configuration, registry, context)
        opened.callback(auth.close)
        coordination = wal if isinstance(wal, Coordination) else SingleNode()
        locks = Locks(context.state / "locks")
        element = Element(backend, locks)
        opened.callback(element.close)
        with coordination.exclusive("element"):
            if new_store and expected is not None:
                forget_store(backend, context.state, expected)
            record = establish(
                backend,
                locks,
                element_id=settings.element_id,
                naming=settings.naming.use,
                mode=settings.mode,
                fallback_id=(expected and expected.element_id) or f"se-{secrets.token_hex(4)}",
                at=now(),
                expected=None if new_store else expected,
                is_directory=naming.is_directory,
            )
            present = StoreRecord(store_id=record.store_id, element_id=record.element_id)
            # A store that each process has for itself is no store to remember.
            if backend.capabilities.multi_process and (new_store or present != expected):
                store_record.write(context.state, present)
        # Read here: from now on another store in its place is noticed.
        context = replace(context, element_id=element.record().element_id)
        for part in (cache, wal):
            if isinstance(part, SupportsClaim):
                part.claim(context.element_id)
        observers = build_observers(configuration, registry, context)
        opened.callback(observers.close)
        parts = Parts(
            backend=backend,
            cache=cache,
            naming=naming,
            log=wal,
            coordination=coordination,
            locks=locks,
            element=element,
            limits=_limits(settings.limits, backend),
        )
        backlog, ledger = Backlog(parts, context.state / "index-pending"), Ledger(context.state / "space")
        kernel = Kernel(parts, backlog, ledger, observers)
        jobs = Jobs(context.state / "jobs", coordination)
        report = kernel.recover(joining=joining)
        if report.rebuilt:
            jobs.set_position("")  # the old position belongs to a cache that is gone
        kernel.start()
        opened.pop_all()  # from here on the node closes them
    return Node(configuration, registry, kernel, auth, jobs, report)


def _limits(wanted: Limits, backend: RecoverableBackend) -> Limits:
    """Return the limits that hold: a file larger than the store can hold is refused before its bytes arrive."""
    most = backend.capabilities.max_file_size
    if most is None or most >= wanted.max_file_size:
        return wanted
    log.warning(
        "a file may have at most %d bytes: the store, or the limit of this process, allows no more", most
    )
    return wanted.model_copy(update={"max_file_size": type(wanted.max_file_size)(most)})


def open_default(home: Path | None = None) -> Node:
    """Open the element that configuration file and environment describe: for servers that load an app by its name."""
    return open_node(load(home=home))
