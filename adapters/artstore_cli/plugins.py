"""`artstore plugins` and `artstore plugin new`: what is installed, what can be set for it, and a first plugin."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from artstore.errors import PluginError
from artstore.host.exit_codes import FAILED, OK
from artstore.host.plugin_list import plugin_rows, tables_of, used_providers
from artstore.host.plugins import Registry
from artstore.host.providers import open_registry
from artstore.host.roles import ROLES
from artstore.host.settings import Configuration, suggestion
from artstore_cli.invocation import read_configuration
from artstore_cli.scaffold import make, provided_role

_COLUMNS = ("role", "name", "status", "plugin", "version")


def plugins(args: argparse.Namespace) -> int:
    """`artstore plugins`: print what is installed or, with a name, all about the providers of that name.

    What is wrong with those that are chosen or named goes to standard error, and the exit code is 1.
    """
    configuration = read_configuration(args)
    if args.name:
        text, faults = _describe(configuration, args.name, as_json=args.json)
    else:
        text, faults = _list(configuration, as_json=args.json)
    print(text)
    for fault in faults:
        print(f"artstore: {fault}", file=sys.stderr)
    return FAILED if faults else OK


def new_plugin(args: argparse.Namespace) -> int:
    """`artstore plugin new`: make a distribution with a provider that passes the suite of its role.

    Raises `InvalidField`, `Conflict`, `OSError`.
    """
    registry = Registry()
    registry.load()
    taken = {o.provider.name: o.plugin for o in registry.offers if o.role == provided_role(args.role)}
    made = make(args.name, args.role, Path.cwd(), taken)
    print(f"Made {made.name}. Go on with:")
    for command in (f"cd {made.name}", "pip install -e '.[test]'", "pytest", f"artstore plugins {args.name}"):
        print(f"  {command}")
    return OK


def _list(configuration: Configuration, *, as_json: bool) -> tuple[str, list[str]]:
    """Return what is installed, and what is wrong with the providers that are used."""
    settings = configuration.settings
    registry = open_registry(settings)
    faults: list[str] = []
    for role in ROLES:
        for name in used_providers(registry, role, tables_of(settings, role)):
            try:
                registry.choose(role, name)
            except PluginError as e:
                faults.append(str(e))
    rows = plugin_rows(registry, settings)
    return json.dumps(rows, indent=2) if as_json else _table(rows), faults


def _describe(configuration: Configuration, name: str, *, as_json: bool) -> tuple[str, list[str]]:
    """Return everything about the providers of one name, and what is wrong with them. Raises `PluginError`."""
    registry = open_registry(configuration.settings)
    known = {o.provider.name for o in registry.offers}
    if name not in known:
        raise PluginError(f"Nothing offers '{name}'.", place="artstore plugins", cure=suggestion(name, known))
    faults: list[str] = []
    classes: dict[str, type[Any]] = {}
    for role in {o.role for o in registry.offers if o.provider.name == name}:
        try:
            classes[role] = registry.choose(role, name)
        except PluginError as e:
            faults.append(str(e))
    rows = [r for r in plugin_rows(registry, configuration.settings) if r["name"] == name]
    for row in rows:
        provider = classes.get(row["role"])
        row["settings"] = provider.Settings.model_json_schema() if provider else None
        row["capabilities"] = _capabilities(provider)
    if as_json:
        return json.dumps(rows, indent=2), faults
    return "\n\n".join("\n".join(_page(row)) for row in rows), faults


def _capabilities(provider: type[Any] | None) -> dict[str, Any] | None:
    declared = getattr(provider, "capabilities", None)
    slots = getattr(type(declared), "__slots__", ())
    return {field: getattr(declared, field) for field in slots} or None


def _width() -> int:
    return max(40, shutil.get_terminal_size((80, 24)).columns)


def _table(rows: list[dict[str, Any]]) -> str:
    cells = [{c: c.upper() for c in _COLUMNS}, *({c: str(row[c] or "-") for c in _COLUMNS} for row in rows)]
    widths = {c: max(len(cell[c]) for cell in cells) for c in _COLUMNS}
    lines: list[str] = []
    for cell, row in zip(cells, [None, *rows], strict=True):
        chosen = "*" if row and row["chosen"] else " "
        lines.append(f"{chosen} {'  '.join(cell[c].ljust(widths[c]) for c in _COLUMNS)}".rstrip())
        if row:
            text = row["problem"] or row["summary"]
            if row["allows_missing_guarantees"]:
                text += " (guarantees less than it should)"
            lines += _indent(text, widths["role"] + 4)
    return "\n".join(lines)


def _indent(text: str, indent: int) -> list[str]:
    """Return the lines of a text that is wrapped to the width of the terminal."""
    return textwrap.wrap(
        text, _width(), initial_indent=" " * indent, subsequent_indent=" " * indent, break_on_hyphens=False
    )


def _page(row: dict[str, Any]) -> Iterator[str]:
    """Yield the lines about one provider: what it is, and each setting with its variable."""
    chosen = ", chosen" if row["chosen"] else ""
    yield f"{row['role']} {row['name']}: {row['status']}{chosen}; {row['plugin']} {row['version']}"
    yield from _indent(row["problem"] or row["summary"], 2)
    if row["capabilities"]:
        yield from _indent(", ".join(f"{k} {_json(v)}" for k, v in row["capabilities"].items()), 2)
    if row["settings"] is None:
        return
    fields = row["settings"].get("properties", {})
    if not fields:
        yield "  It has nothing to set."
    for key, field in fields.items():
        default = "needed" if key in row["settings"].get("required", []) else _json(field.get("default"))
        yield ""
        yield f"  {key} ({_type(field, row['settings'])}; {default})"
        yield f"      ARTSTORE_{row['role']}__{row['name']}__{key}".upper()
        yield from _indent(field.get("description", ""), 6)


def _type(field: dict[str, Any], schema: dict[str, Any]) -> str:
    """Return a JSON schema in a few words."""
    if "$ref" in field:
        return _type(schema["$defs"][field["$ref"].rpartition("/")[2]], schema)
    if "anyOf" in field:
        return " or ".join(_type(f, schema) for f in field["anyOf"] if f.get("type") != "null")
    if "enum" in field:
        return " or ".join(_json(v) for v in field["enum"])
    if "const" in field:
        return _json(field["const"])
    return str(field.get("format") or field.get("type") or "anything")


def _json(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
