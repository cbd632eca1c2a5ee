"""`artstore serve`: recover the element once, then run granian with its workers until a signal stops it."""

from __future__ import annotations

import errno
import faulthandler
import gc
import importlib
import logging.config
import mmap
import multiprocessing
import os
import resource
import shlex
import shutil
import signal
import socket
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from artstore.errors import ConfigError, PluginError
from artstore.host.boot import open_node
from artstore.host.plugin_list import tables_of, used_providers
from artstore.host.providers import open_registry
from artstore.host.roles import ROLES
from artstore.host.sections import Server
from artstore.host.settings import Configuration, Settings
from artstore_granian.adapters import Adapter, choose_adapter
from artstore_granian.processes import reset_stop_signals_in_children, run_in_child
from artstore_granian.worker import STARTUP_GC_THRESHOLD

CONNECTIONS = 16_384
"""Open connections of one worker, idle ones included. Further ones wait until they are accepted."""
HEADER_TIMEOUT = 10_000
"""Milliseconds within which the head of a request has to arrive."""


class Recovered(NamedTuple):
    """What the serving process learns from the child that recovered the element."""

    element_id: str
    mode: str
    made_keys: bool
    """The auth made its keys now: this is the first start."""
    one_process: bool
    """Each process would have a store of its own."""


def serve(configuration: Configuration, *, new_store: bool = False) -> None:
    """Serve the element until SIGTERM or SIGINT.

    The workers are forked and have this `configuration`, also those that are started later: a file that is edited
    meanwhile counts from the next start. `new_store`: see `open_node`. Raises `ConfigError`, `PluginError`,
    `Unavailable`, `StorageFull` before anything is served.
    """
    gc_threshold = gc.get_threshold()
    gc.set_threshold(STARTUP_GC_THRESHOLD)
    server = configuration.settings.server
    adapter = choose_adapter(configuration)
    _check_library(adapter)
    address = _check_address(server)
    logging.config.dictConfig(logging_config(configuration.settings.log.level))
    faulthandler.enable(2)  # so that a crash of native code leaves a traceback
    _import_for_all_workers(adapter, configuration.settings)
    gc.freeze()
    multiprocessing.set_start_method("fork", force=True)
    recovered = run_in_child(lambda: _recover(configuration, new_store=new_store))
    if recovered.one_process and server.workers > 1:
        raise ConfigError(
            f"Each of {server.workers} workers would have a store of its own: this backend shares none.",
            place="server.workers",
            cure="Serve it with one worker, or choose another backend.",
        )
    _allow_many_files()
    _print_banner(configuration, adapter, recovered)
    _silence_advice_on_threads()
    gc.set_threshold(*gc_threshold)
    reset_stop_signals_in_children()
    _run_granian(configuration, adapter, address)
    _ignore_a_second_stop()


def _run_granian(configuration: Configuration, adapter: Adapter, address: str) -> None:
    from granian.constants import HTTPModes, Interfaces
    from granian.http import HTTP1Settings
    from granian.log import LogLevels

    from artstore_granian.supervisor import Supervisor
    from artstore_granian.worker import worker_app

    server = configuration.settings.server
    opened = mmap.mmap(-1, 1)
    Supervisor(
        "artstore",
        opened=opened,
        address=address,
        port=server.port,
        interface=Interfaces(adapter.interface),
        workers=server.workers,
        blocking_threads=server.threads if adapter.interface == "wsgi" else None,
        backpressure=CONNECTIONS,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_TIMEOUT, max_buffer_size=adapter.body_buffer),
        websockets=False,
        log_level=LogLevels.warning,
        log_dictconfig=logging_config(configuration.settings.log.level),
        workers_kill_timeout=max(1, int(server.shutdown_timeout)),
    ).serve(target_loader=partial(worker_app, configuration, opened), wrap_loader=False)


def logging_config(level: str) -> dict[str, Any]:
    """Return the configuration of `logging`: lines on standard error, ours and granian's alike."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {
                "()": "artstore_granian.log_lines.LineFormatter",
                "fmt": "%(asctime)s %(levelname)s %(name)s %(message)s",
            }
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {
            "artstore": {"level": level.upper()},
            "_granian": {"level": "WARNING"},
            "granian.access": {"level": "WARNING"},
        },
    }


def _import_for_all_workers(adapter: Adapter, settings: Settings) -> None:
    """Import what each worker needs, so that it is imported once and shared by all of them.

    Plugins of other distributions are left to the workers: they may start threads, and a fork inherits none. A module
    that cannot be imported is reported by the worker that needs it.
    """
    importlib.import_module("granian")
    importlib.import_module(adapter.module)
    with suppress(PluginError):
        registry = open_registry(settings, ours_only=True)
        for role in ROLES:
            used_providers(registry, role, tables_of(settings, role))


def _recover(configuration: Configuration, *, new_store: bool) -> Recovered:
    """Open the element, which recovers it, and close it again. This happens in a child: see `processes`."""
    node = open_node(configuration, new_store=new_store)
    record = node.kernel.parts.element.record()
    recovered = Recovered(
        element_id=record.element_id,
        mode=record.mode.value,
        made_keys=bool(getattr(node.auth, "generated", False)),
        one_process=not node.kernel.parts.backend.capabilities.multi_process,
    )
    node.close()
    return recovered


def _silence_advice_on_threads() -> None:
    """Drop granian's advice on the number of threads: it is for apps that compute, and ours waits for the disk."""
    logging.getLogger("_granian").addFilter(lambda record: "Python threads" not in record.getMessage())


def _ignore_a_second_stop() -> None:
    """Let a second SIGTERM or SIGINT do nothing: Python restores their default effect while it ends, and the exit code
    would say that the process was killed."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _allow_many_files() -> None:
    """Allow as many open files as the system permits: each connection needs one, an idle one too."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _check_library(adapter: Adapter) -> None:
    try:
        importlib.import_module(adapter.name)
    except ImportError:
        raise ConfigError(
            f"The adapter '{adapter.name}' needs a library that is not installed.",
            place="server.adapter",
            cure=f"pip install 'artstore[{adapter.name}]'",
        ) from None


def _check_address(server: Server) -> str:
    """Return the address to listen at, in digits: granian accepts no names. Raises `ConfigError` when it is in use.

    granian lets its workers share one port, so it would also share the port with another element, without an error.
    """
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            server.host, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, number) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as e:
        port = e.errno in (errno.EADDRINUSE, errno.EACCES)
        raise ConfigError(
            f"Nothing can listen at {server.host!r}, port {server.port}: {e.strerror}.",
            place="server.host, server.port",
            cure="Stop what listens there, or choose another port: artstore serve --port 8011."
            if port
            else "Name an address of this machine: artstore serve --host 127.0.0.1.",
        ) from None
    return str(address[0])


def _print_banner(configuration: Configuration, adapter: Adapter, recovered: Recovered) -> None:
    """Print which element is served where and, at the first start, the command that makes a token."""
    server = configuration.settings.server
    host = f"[{server.host}]" if ":" in server.host else server.host
    home = configuration.home
    # As the reader can type it, also when the environment of this command is not active.
    command = "artstore" if shutil.which("artstore") else os.path.relpath(sys.argv[0])
    if command.endswith("__main__.py"):
        command = f"{os.path.relpath(sys.executable)} -m artstore_cli"
    option = "" if home == Path("artstore-data").absolute() else f" --home {shlex.quote(str(home))}"
    lines = [
        f"artstore serves element {recovered.element_id} (mode {recovered.mode}) at http://{host}:{server.port}",
        f"  home     {home}",
        f"  adapter  {adapter.name}, {server.workers} worker(s)",
    ]
    if recovered.made_keys:
        lines += [
            f"  keys     made now, in {home / 'state' / 'keys'}",
            f"  token    {command} token{option} --user ivanov --role operator",
        ]
    print("\n".join(lines), file=sys.stderr, flush=True)
