"""The commands and their options. A command's modules are imported when it runs, so that `--help` is instant."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import artstore
from artstore.host import exit_codes
from artstore_cli.arguments import date, directory, whole_number
from artstore_cli.invocation import existing_home, read_configuration, user_name
from artstore_granian.adapters import ADAPTERS

HEALTHCHECK_TIMEOUT = 5
"""Seconds within which a running element has to answer `artstore healthcheck`."""

_EPILOG = """\
exit codes: 0 ok, 1 failed, 2 usage, 6 damage found, 7 unreachable, 78 configuration
environment: ARTSTORE_HOME, ARTSTORE_CONFIG, ARTSTORE_PLUGINS=none, and every setting as ARTSTORE_SECTION__KEY
"""

Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = _parser().parse_args(argv)
    try:
        code: int = args.run(args)
        print(
            end="", flush=True
        )  # a reader that has gone away is noticed here, not at the end of the interpreter
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED
    except BrokenPipeError:  # `artstore wal | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_codes.OK
    except Exception as e:
        code = _explain(e)
    return code


def _explain(error: Exception) -> int:
    """Print an error in one or two lines and return the exit code. An error that nobody raised on purpose is raised
    again: its traceback is needed."""
    from artstore.errors import ArtstoreError, ConfigError, ProviderFault, Unavailable

    if not isinstance(error, ArtstoreError | OSError):
        raise error
    print(f"artstore: {error}", file=sys.stderr)
    if isinstance(error, ConfigError):
        return exit_codes.CONFIGURATION
    unreachable = isinstance(error, Unavailable) and not isinstance(error, ProviderFault)
    return exit_codes.UNREACHABLE if unreachable else exit_codes.FAILED


def _parser() -> argparse.ArgumentParser:
    # These options may stand before the command or behind it. SUPPRESS: an option that is missing behind the command
    # must not replace the value of the one before it.
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument(
        "--home", type=directory, metavar="DIR", help="directory of the element (./artstore-data)"
    )
    common.add_argument("--config", type=Path, metavar="FILE", help="configuration file (HOME/artstore.toml)")
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser = argparse.ArgumentParser(
        prog="artstore",
        parents=[common],
        description="A storage element: files over HTTP, each beside a small sidecar that is its only truth.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"artstore {artstore.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, run: Command, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        command = commands.add_parser(name, parents=[common, *parents], help=text, description=text)
        command.set_defaults(run=run)
        return command

    serve = add("serve", _serve, "Serve the element over HTTP.")
    serve.add_argument("--adapter", choices=list(ADAPTERS), help="ASGI or WSGI (starlette)")
    serve.add_argument("--host", help="address to listen on (127.0.0.1)")
    serve.add_argument("--port", type=whole_number(1, 65_535), help="port to listen on (8010)")
    serve.add_argument("--workers", type=whole_number(1, 256), help="processes (1)")
    serve.add_argument(
        "--new-store",
        action="store_true",
        help="the store of this home is gone: serve what lies in its place",
    )

    token = add("token", _token, "Print a token, signed with the element's own key.")
    token.add_argument("--user", required=True, help="who the token speaks for")
    token.add_argument(
        "--role",
        action="append",
        required=True,
        choices=["reader", "user", "operator", "admin"],
        help="what the user may do; repeatable",
    )
    token.add_argument(
        "--ttl", type=whole_number(1), default=3600, metavar="SECONDS", help="how long it is valid (3600)"
    )

    plugins = add("plugins", _plugins, "List the providers of each role, or describe one of them.", as_json)
    plugins.add_argument("name", nargs="?", metavar="NAME", help="show what can be set for this provider")

    plugin = add("plugin", _plugin, "Make a plugin of your own, to begin with.")
    plugin.add_argument("what", choices=["new"], metavar="new", help="make it in this directory")
    plugin.add_argument("name", metavar="NAME", help="of the provider; the directory is artstore-NAME")
    plugin.add_argument(
        "--role",
        required=True,
        choices=["backend", "object-store", "auth", "cache", "naming"],
        help="what it provides",
    )

    config = add("config", _config, "Show or check the configuration.", as_json)
    config.add_argument(
        "what", choices=["show", "check"], metavar="show|check", help="print it, or only check it"
    )

    verify = add("verify", _verify, "Compare files, sidecars and cache; change nothing.", as_json)
    verify.add_argument("--digests", action="store_true", help="read all data and compare its SHA-256")
    verify.add_argument("--since", type=date, metavar="DATE", help="only files uploaded since then (UTC)")

    add("rebuild", _rebuild, "Write the cache again from the sidecars, while it is in use.", as_json)
    add("recover", _recover, "Recover what a crash left, and exit.", as_json)

    wal = add("wal", _wal, "List the write-ahead log, newest first.", as_json)
    wal.add_argument(
        "--status", choices=["pending", "committed", "rolled_back", "failed"], help="only these (all)"
    )
    wal.add_argument("--limit", type=whole_number(0), metavar="NUMBER", default=50, help="how many (50)")

    db = add("db", _db, "Show or move the schema of the cache, while the element is stopped.", as_json)
    db.add_argument(
        "what",
        choices=["current", "upgrade", "downgrade"],
        metavar="current|upgrade|downgrade",
        help="print the revision, or move to another",
    )
    db.add_argument(
        "revision",
        nargs="?",
        metavar="REVISION",
        help="where to: r1, +1, -1, head, base (upgrade: head, downgrade: -1)",
    )

    mode = add("mode", _mode, "Show the mode of the element, or change it.", as_json)
    mode.add_argument(
        "target",
        nargs="?",
        choices=["rw", "ro", "ar", "edit"],
        help="the new mode; without it, show the mode",
    )
    mode.add_argument("--confirm", action="store_true", help="needed to go back to an earlier mode")
    mode.add_argument("--reason", default="", help="kept with the mode")

    add("rekey", _rekey, "Bring every encrypted file under the present master key.", as_json)
    add("openapi", _openapi, "Print the HTTP contract as OpenAPI 3.1.")
    healthcheck = add("healthcheck", _healthcheck, "Ask the running element whether it is ready.")
    healthcheck.add_argument("--port", type=whole_number(1, 65_535), help="port at which it listens (8010)")
    add("version", _version, "Print the version.", as_json)
    return parser


def _serve(args: argparse.Namespace) -> int:
    from artstore_granian.serve import serve

    options = {"adapter": args.adapter, "host": args.host, "port": args.port, "workers": args.workers}
    overrides = {f"server.{key}": value for key, value in options.items() if value is not None}
    serve(read_configuration(args, overrides), new_store=args.new_store)
    return exit_codes.OK


def _token(args: argparse.Namespace) -> int:
    from artstore.errors import ConfigError
    from artstore.host.offline import open_auth
    from artstore.spi import SupportsIssue

    auth = open_auth(existing_home(args))
    try:
        if not isinstance(auth, SupportsIssue):
            raise ConfigError("This auth makes no tokens.", place="auth", cure="Get one where its users do.")
        print(auth.issue(user=args.user, roles=args.role, seconds=args.ttl))
    finally:
        auth.close()
    return exit_codes.OK


def _plugins(args: argparse.Namespace) -> int:
    from artstore_cli.plugins import plugins

    return plugins(args)


def _plugin(args: argparse.Namespace) -> int:
    from artstore_cli.plugins import new_plugin

    return new_plugin(args)


def _config(args: argparse.Namespace) -> int:
    from artstore_cli.config import config

    return config(args)


def _verify(args: argparse.Namespace) -> int:
    from artstore_cli.maintenance import verify

    return verify(args)


def _rebuild(args: argparse.Namespace) -> int:
    from artstore_cli.maintenance import rebuild

    return rebuild(args)


def _recover(args: argparse.Namespace) -> int:
    from artstore_cli.maintenance import recover

    return recover(args)


def _rekey(args: argparse.Namespace) -> int:
    from artstore_cli.maintenance import rekey

    return rekey(args)


def _db(args: argparse.Namespace) -> int:
    from artstore_cli.records import db

    return db(args)


def _wal(args: argparse.Namespace) -> int:
    from artstore_cli.records import wal

    return wal(args)


def _mode(args: argparse.Namespace) -> int:
    from artstore.host.boot import open_node
    from artstore.modes import Mode
    from artstore.spi import TOKEN_ROLES, Principal

    node = open_node(existing_home(args))
    try:
        record = node.kernel.parts.element.record()
        if args.target is not None:
            by = Principal(id="cli", name=user_name(), scopes=TOKEN_ROLES["admin"])
            record = node.kernel.transition(by, Mode(args.target), confirm=args.confirm, reason=args.reason)
    finally:
        node.close()
    print(record.model_dump_json() if args.json else record.mode.value)
    return exit_codes.OK


def _openapi(args: argparse.Namespace) -> int:
    from artstore_http.openapi import document
    from artstore_http.routes import ROUTES

    print(json.dumps(document(ROUTES), indent=2, ensure_ascii=False))
    return exit_codes.OK


def _healthcheck(args: argparse.Namespace) -> int:
    import http.client

    overrides = {} if args.port is None else {"server.port": args.port}
    server = read_configuration(args, overrides).settings.server
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104
    connection = http.client.HTTPConnection(host, server.port, timeout=HEALTHCHECK_TIMEOUT)
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        print(answer.read().decode("utf-8", "replace"))
    except (OSError, http.client.HTTPException) as e:
        print(
            f"artstore: nothing answers at {host}:{server.port}: {getattr(e, 'strerror', None) or e}.",
            file=sys.stderr,
        )
        return exit_codes.UNREACHABLE
    finally:
        connection.close()
    return exit_codes.OK if answer.status == 200 else exit_codes.FAILED


def _version(args: argparse.Namespace) -> int:
    print(json.dumps({"version": artstore.__version__}) if args.json else artstore.__version__)
    return exit_codes.OK
