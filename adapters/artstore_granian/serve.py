"""`artstore serve`: granian in front of the adapter that the operator picked."""

from __future__ import annotations

import asyncio
import errno
import faulthandler
import fcntl
import gc
import importlib
import logging.config
import multiprocessing
import os
import resource
import shlex
import shutil
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from artstore.errors import ConfigError, PluginError, StorageFull, Unavailable
from artstore.host.boot import open_node, open_registry
from artstore.host.sections import Server
from artstore.host.settings import ROLES, Configuration, Settings, load
from artstore_granian.processes import die_with_parent, end_as_usual, in_a_child, stop_as_usual

ADAPTERS = {"starlette": "artstore_starlette.app", "falcon": "artstore_falcon.app"}
INTERFACES = {"starlette": "asgi", "falcon": "wsgi"}
CONNECTIONS = 16_384
"""Open connections of one worker, idle ones too; more wait to be accepted."""
UNREACHABLE, CONFIGURATION = 7, 78
"""Exit codes of a worker that cannot start."""
PAUSE = 6
"""Seconds until a worker whose store does not answer makes way for one that asks again; granian minds less than 5.5."""
RECEIVED = {"starlette": 4 << 20, "falcon": 1 << 20}
"""Bytes of a body that may come at once. With Starlette each handing over wakes three threads: with 1 MiB a large plain
upload cost a third more processor time; with more, fast clients would hold more memory. With Falcon 1 MiB is best."""
STARTING = 200_000
"""New objects after which garbage is looked for while a process starts: it makes 130,000 that stay, and looking
through them after each 700, as is usual, took a seventh of its time."""
LISTENS = 0.05
"""Seconds after the start of an app from which its loop heeds signals, once it runs."""
log = logging.getLogger("artstore.server")


def logging_config(level: str) -> dict[str, Any]:
    """Lines on standard error, ours and the server's alike."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {
            "artstore": {"level": level.upper()},
            "_granian": {"level": "WARNING"},
            "granian.access": {"level": "WARNING"},
        },
    }


def serve(configuration: Configuration, overrides: dict[str, Any]) -> None:
    """Recover the element once, say where it is, and serve until SIGTERM or SIGINT."""
    usual = gc.get_threshold()
    gc.set_threshold(STARTING)
    server = configuration.settings.server
    _check_adapter(server)
    address = _address(server)
    logging.config.dictConfig(logging_config(configuration.settings.log.level))
    faulthandler.enable(2)  # nobody dies of SIGBUS or SIGSEGV without a word
    _import_ahead(configuration.settings)
    from granian import Granian
    from granian.constants import HTTPModes, Interfaces
    from granian.http import HTTP1Settings
    from granian.log import LogLevels

    gc.freeze()
    multiprocessing.set_start_method("fork", force=True)
    element_id, mode, made_keys, alone = in_a_child(lambda: _recover(configuration))
    if alone and server.workers > 1:
        raise ConfigError(
            f"Each of {server.workers} workers would have a store of its own: this backend shares none.",
            place="server.workers",
            cure="Serve it with one worker, or take another backend.",
        )
    _tell_workers(configuration, overrides)
    _allow_many_files()
    _greet(configuration, element_id, mode, made_keys)
    # Its advice on the number of threads is for apps that compute; ours wait for the disk.
    logging.getLogger("_granian").addFilter(lambda record: "Python threads" not in record.getMessage())
    gc.set_threshold(*usual)
    stop_as_usual()
    Granian(
        "artstore_granian.serve:worker_app",
        address=address,
        port=server.port,
        interface=Interfaces(INTERFACES[server.adapter]),
        workers=server.workers,
        blocking_threads=server.threads if server.adapter == "falcon" else None,
        backpressure=CONNECTIONS,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=10_000, max_buffer_size=RECEIVED[server.adapter]),
        websockets=False,
        factory=True,
        log_level=LogLevels.warning,
        log_dictconfig=logging_config(configuration.settings.log.level),
        respawn_failed_workers=True,
        workers_kill_timeout=max(1, int(server.drain)),
    ).serve()
    # Told once more to stop, it is as good as stopped: Python gives the signals their usual effect as it ends.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _import_ahead(settings: Settings) -> None:
    """What each child would import, as far as it is ours: a stranger's module may begin threads, which no child
    inherits. What cannot be imported is told by whoever needs it."""
    importlib.import_module(ADAPTERS[settings.server.adapter])
    with suppress(PluginError):
        registry = open_registry(settings, strangers=False)
        for role in (*ROLES, "observer"):
            registry.used(role, getattr(settings, role))


def _recover(configuration: Configuration) -> tuple[str, str, bool, bool]:
    """Id and mode of the element, whether its keys were made now, and whether each process has a store of its own."""
    node = open_node(configuration)
    made_keys = bool(getattr(node.auth, "generated", False))
    record = node.kernel.element.record()
    alone = not node.kernel.backend.capabilities.multi_process
    node.close()
    return record.element_id, record.mode.value, made_keys, alone


def worker_app() -> Any:
    """The app of one worker; it ends when the process that serves is gone, or nobody could restart it."""
    usual = gc.get_threshold()
    gc.set_threshold(STARTING)
    if not die_with_parent(signal.SIGTERM):
        raise SystemExit(1)
    end_as_usual()
    faulthandler.enable(2)
    held: set[signal.Signals] = set()
    try:
        configuration = load()
        if INTERFACES[configuration.settings.server.adapter] == "asgi":
            # uvloop loses a signal that comes before its loop runs: the element would be killed when the time to drain
            # is over. Before any thread begins, which would take the signal in place of this one.
            held = {signal.SIGTERM, signal.SIGINT}
            signal.pthread_sigmask(signal.SIG_BLOCK, held)
        _settle_on_a_cpu(configuration)
        node = open_node(configuration)
    except ConfigError as e:
        log.error("a worker cannot start: %s", e)  # all was well when the element started
        raise SystemExit(CONFIGURATION) from None
    except (StorageFull, Unavailable) as e:
        # The server ends when a worker dies at once, and with it all others, which would heal by themselves.
        log.error("a worker waits: %s", e)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, held)
        time.sleep(PAUSE)
        raise SystemExit(UNREACHABLE) from None
    app = importlib.import_module(ADAPTERS[node.settings.server.adapter]).create_app(node)
    # What was imported and built stays to the end: no collection has to look through it, nor the one at the end.
    gc.freeze()
    gc.set_threshold(*usual)
    return _listening(app, held) if held else app


def _listening(app: Any, held: set[signal.Signals]) -> Any:
    """`app`, let go of the signals that are held back as soon as granian's loop runs for good."""

    async def listening(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":  # the loop stops once more when this has begun
            asyncio.get_running_loop().call_later(LISTENS, signal.pthread_sigmask, signal.SIG_UNBLOCK, held)
        await app(scope, receive, send)

    return listening


def _settle_on_a_cpu(configuration: Configuration) -> None:
    """Where there is a worker for each processor, each keeps to its own: threads that hand the interpreter's lock
    to each other across processors halve what they do (measured: 540 and 1,270 uploads a second)."""
    processors = sorted(os.sched_getaffinity(0))
    if configuration.settings.server.workers < len(processors):
        return
    directory = configuration.home / "state" / "locks"
    directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    for number in range(configuration.settings.server.workers):
        # Held until this process ends: whoever takes its place takes its processor.
        try:
            slot = os.open(directory / f"worker-{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError:  # a full disk: any processor will do
            return
        try:
            fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(slot)
        else:
            os.sched_setaffinity(0, {processors[number % len(processors)]})
            return


def _allow_many_files() -> None:
    """As many descriptors as the system lets us have: each connection, also an idle one, takes one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _check_adapter(server: Server) -> None:
    try:
        __import__(server.adapter)
    except ImportError:
        raise ConfigError(
            f"The adapter '{server.adapter}' needs a library that is not installed.",
            place="server.adapter",
            cure=f"pip install 'artstore[{server.adapter}]'",
        ) from None


def _address(server: Server) -> str:
    """Where to listen, in digits: granian takes no names. It shares its port among processes, so it would share it
    with another element without a word."""
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
            cure="Stop what listens there, or take another: artstore serve --port 8011."
            if port
            else "Name an address of this machine: artstore serve --host 127.0.0.1.",
        ) from None
    return str(address[0])


def _tell_workers(configuration: Configuration, overrides: dict[str, Any]) -> None:
    """Workers read the configuration for themselves: from the same file, and from this environment."""
    os.environ["ARTSTORE_HOME"] = str(configuration.home)
    if configuration.file is not None:
        os.environ["ARTSTORE_CONFIG"] = str(configuration.file)
    for dotted, value in overrides.items():
        os.environ["ARTSTORE_" + dotted.upper().replace(".", "__")] = str(value)


def _greet(configuration: Configuration, element_id: str, mode: str, made_keys: bool) -> None:
    server = configuration.settings.server
    host = f"[{server.host}]" if ":" in server.host else server.host
    home = configuration.home
    # As the reader can type it, also when the environment of this command is not active.
    command = "artstore" if shutil.which("artstore") else os.path.relpath(sys.argv[0])
    option = "" if home == Path("artstore-data").absolute() else f" --home {shlex.quote(str(home))}"
    lines = [
        f"artstore serves element {element_id} (mode {mode}) at http://{host}:{server.port}",
        f"  home     {home}",
        f"  adapter  {server.adapter}, {server.workers} worker(s)",
    ]
    if made_keys:
        lines += [
            f"  keys     made now, in {home / 'state' / 'keys'}",
            f"  token    {command} token{option} --user ivanov --role operator",
        ]
    print("\n".join(lines), file=sys.stderr, flush=True)
