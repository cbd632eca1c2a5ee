"""The command line. Heavy modules are imported within the commands that need them: `--help` is instant."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import artstore
from artstore_cli import maintenance
from artstore_cli.arguments import date, directory, whole

if TYPE_CHECKING:
    from artstore.host.settings import Configuration

OK, FAILED, UNREACHABLE, CONFIGURATION = 0, 1, 7, 78

_EXITS = """\
exit codes: 0 ok, 1 failed, 2 usage, 6 damage found, 7 unreachable, 78 configuration
environment: ARTSTORE_HOME, ARTSTORE_CONFIG, ARTSTORE_PLUGINS=none, and every setting as ARTSTORE_SECTION__KEY
"""

Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    args = _parser().parse_args(argv)
    try:
        code: int = args.run(args)
        print(end="", flush=True)  # here, where a reader that went away is expected
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `artstore wal | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as e:
        code = _explain(e)
    return code


def _explain(error: Exception) -> int:
    """One or two lines for a person; a traceback only for what is our own fault."""
    from artstore.errors import ArtstoreError, ConfigError, ProviderFault, Unavailable

    if not isinstance(error, ArtstoreError | OSError):
        raise error
    print(f"artstore: {error}", file=sys.stderr)
    if isinstance(error, ConfigError):
        return CONFIGURATION
    unreachable = isinstance(error, Unavailable) and not isinstance(error, ProviderFault)
    return UNREACHABLE if unreachable else FAILED


def _parser() -> argparse.ArgumentParser:
    # Before the command or behind it; unset it must not hide what was said before.
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument(
        "--home", type=directory, metavar="DIR", help="where everything lies (./artstore-data)"
    )
    common.add_argument("--config", type=Path, metavar="FILE", help="artstore.toml (HOME/artstore.toml)")
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="for programs")
    parser = argparse.ArgumentParser(
        prog="artstore",
        parents=[common],
        description="A storage element: files over HTTP, each beside a small sidecar that is its only truth.",
        epilog=_EXITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"artstore {artstore.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, run: Command, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        command = commands.add_parser(name, parents=[common, *parents], help=text, description=text)
        command.set_defaults(run=run)
        return command

    serve = add("serve", _serve, "Serve the element over HTTP.")
    serve.add_argument("--adapter", choices=["starlette", "falcon"], help="ASGI or WSGI (starlette)")
    serve.add_argument("--host", help="address to listen on (127.0.0.1)")
    serve.add_argument("--port", type=whole(1, 65_535), help="port to listen on (8010)")
    serve.add_argument("--workers", type=whole(1, 256), help="processes (1)")

    token = add("token", _token, "Print a token, signed with the element's own key.")
    token.add_argument("--user", required=True, help="who the token speaks for")
    token.add_argument(
        "--role",
        action="append",
        required=True,
        choices=["reader", "user", "operator", "admin"],
        help="repeatable",
    )
    token.add_argument(
        "--ttl", type=whole(1), default=3600, metavar="SECONDS", help="how long it is valid (3600)"
    )

    plugins = add(
        "plugins", _plugins, "List what fills each role and what else could, or tell of one.", as_json
    )
    plugins.add_argument("name", nargs="?", metavar="NAME", help="what can be set for this one")

    plugin = add("plugin", _plugin, "Make a plugin of your own, to begin with.")
    plugin.add_argument("what", choices=["new"], metavar="new", help="in this directory")
    plugin.add_argument("name", metavar="NAME", help="of the provider; the directory is artstore-NAME")
    plugin.add_argument(
        "--role", required=True, choices=["backend", "auth", "cache", "naming"], help="what it is to be"
    )

    config = add("config", _config, "Show or check the configuration.", as_json)
    config.add_argument(
        "what", choices=["show", "check"], metavar="show|check", help="print it, or only check it"
    )

    verify = add(
        "verify", _over(maintenance.verify), "Compare files, sidecars and cache; change nothing.", as_json
    )
    verify.add_argument("--digests", action="store_true", help="read all data and compare its sha-256")
    verify.add_argument("--since", type=date, metavar="DATE", help="only what was uploaded since (UTC)")

    add(
        "rebuild",
        _over(maintenance.rebuild),
        "Bring the cache to what the sidecars say, while it is used.",
        as_json,
    )

    add("recover", _over(maintenance.recover), "Settle whatever a crash left, and exit.", as_json)

    wal = add("wal", _wal, "List the write-ahead log, newest first.", as_json)
    wal.add_argument(
        "--status", choices=["pending", "committed", "rolled_back", "failed"], help="only these (all)"
    )
    wal.add_argument("--limit", type=whole(0), metavar="NUMBER", default=50, help="how many (50)")

    db = add(
        "db", _db, "Show or move the schema of the cache's database, while the element is stopped.", as_json
    )
    db.add_argument(
        "what",
        choices=["current", "upgrade", "downgrade"],
        metavar="current|upgrade|downgrade",
        help="say the revision, or move it",
    )
    db.add_argument(
        "revision",
        nargs="?",
        metavar="REVISION",
        help="where to: r1, +1, -1, head, base (upgrade: head, downgrade: -1)",
    )

    mode = add("mode", _mode, "Show the mode of the element, or change it.", as_json)
    mode.add_argument(
        "target", nargs="?", choices=["rw", "ro", "ar", "edit"], help="where to; without one, show it"
    )
    mode.add_argument("--confirm", action="store_true", help="needed to go back")
    mode.add_argument("--reason", default="", help="kept with the mode")

    add(
        "rekey", _over(maintenance.rekey), "Bring every encrypted file under the present master key.", as_json
    )
    add("openapi", _openapi, "Print the HTTP contract as OpenAPI 3.1.")
    healthcheck = add("healthcheck", _healthcheck, "Ask the running element whether it is ready.")
    healthcheck.add_argument("--port", type=whole(1, 65_535), help="port at which it listens (8010)")
    add("version", _version, "Print the version.", as_json)
    return parser


def _configuration(args: argparse.Namespace, overrides: dict[str, Any] | None = None) -> Configuration:
    from artstore.host.settings import load

    home, config = getattr(args, "home", None), getattr(args, "config", None)
    return load(home=home, config=config, overrides=overrides)


def _standing(args: argparse.Namespace) -> Configuration:
    """Of a home that is there: only `serve` makes one, so that a slip of the pen makes none."""
    from artstore.errors import ConfigError

    configuration = _configuration(args)
    if not configuration.home.is_dir():
        raise ConfigError(
            f"There is no home {configuration.home}.",
            place="--home or ARTSTORE_HOME",
            cure="Name the home of an element; artstore serve makes a new one.",
        )
    return configuration


def _serve(args: argparse.Namespace) -> int:
    from artstore_granian.serve import serve

    flags = {"adapter": args.adapter, "host": args.host, "port": args.port, "workers": args.workers}
    overrides = {f"server.{k}": v for k, v in flags.items() if v is not None}
    serve(_configuration(args, overrides), overrides)
    return OK


def _token(args: argparse.Namespace) -> int:
    from artstore.errors import ConfigError
    from artstore.host.boot import open_auth
    from artstore.spi import SupportsIssue

    auth = open_auth(_standing(args))
    try:
        if not isinstance(auth, SupportsIssue):
            raise ConfigError("This auth makes no tokens.", place="auth", cure="Get one where its users do.")
        print(auth.issue(user=args.user, roles=args.role, seconds=args.ttl))
    finally:
        auth.close()
    return OK


def _plugins(args: argparse.Namespace) -> int:
    from artstore_cli.plugins import listing, one

    configuration = _configuration(args)
    text, faults = (
        one(configuration, args.name, as_json=args.json)
        if args.name
        else listing(configuration, as_json=args.json)
    )
    print(text)
    for fault in faults:
        print(f"artstore: {fault}", file=sys.stderr)
    return FAILED if faults else OK


def _plugin(args: argparse.Namespace) -> int:
    from artstore_cli.plugins import new

    print(new(args.name, args.role))
    return OK


def _config(args: argparse.Namespace) -> int:
    from artstore_cli.config import config

    return config(args, _configuration(args))


def _over(step: Callable[[argparse.Namespace, Configuration], int]) -> Command:
    """A command that looks after a whole store."""
    return lambda args: step(args, _standing(args))


def _db(args: argparse.Namespace) -> int:
    from artstore_cli.records import db

    return db(args)


def _wal(args: argparse.Namespace) -> int:
    from artstore_cli.records import wal

    return wal(args)


def _mode(args: argparse.Namespace) -> int:
    from artstore.host.boot import open_node
    from artstore.modes import Mode
    from artstore.spi import ROLES, Principal

    node = open_node(_standing(args))
    try:
        record = node.kernel.element.record()
        if args.target is not None:
            by = Principal(id="cli", name=os.environ.get("USER") or "cli", scopes=ROLES["admin"])
            record = node.kernel.transition(by, Mode(args.target), confirm=args.confirm, reason=args.reason)
    finally:
        node.close()
    print(record.model_dump_json() if args.json else record.mode.value)
    return OK


def _openapi(args: argparse.Namespace) -> int:
    from importlib import import_module

    print(json.dumps(import_module("artstore_http.openapi").document(), indent=2, ensure_ascii=False))
    return OK


def _healthcheck(args: argparse.Namespace) -> int:
    import http.client

    overrides = {} if args.port is None else {"server.port": args.port}
    server = _configuration(args, overrides).settings.server
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104
    connection = http.client.HTTPConnection(host, server.port, timeout=5)
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        print(answer.read().decode("utf-8", "replace"))
    except (OSError, http.client.HTTPException) as e:
        print(
            f"artstore: nothing answers at {host}:{server.port}: {getattr(e, 'strerror', None) or e}.",
            file=sys.stderr,
        )
        return UNREACHABLE
    finally:
        connection.close()
    return OK if answer.status == 200 else FAILED


def _version(args: argparse.Namespace) -> int:
    print(json.dumps({"version": artstore.__version__}) if args.json else artstore.__version__)
    return OK
