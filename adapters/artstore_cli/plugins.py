"""`artstore plugins` and `artstore plugin new`: what is installed, what it takes to set it, and a beginning."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from artstore.errors import PluginError
from artstore.host.boot import open_registry
from artstore.host.plugins import HOOKS, Registry, plugin_rows
from artstore.host.settings import Configuration, suggestion
from artstore_cli.scaffold import make

_COLUMNS = ("role", "name", "status", "plugin", "version")


def listing(configuration: Configuration, *, as_json: bool) -> tuple[str, list[str]]:
    """What is installed, and what is wrong with those that are chosen."""
    settings = configuration.settings
    registry = open_registry(settings)
    faults: list[str] = []
    for role in HOOKS:
        for name in registry.used(role, getattr(settings, role)):
            try:
                registry.choose(role, name)
            except PluginError as e:
                faults.append(str(e))
    rows = plugin_rows(registry, settings)
    return json.dumps(rows, indent=2) if as_json else _table(rows), faults


def one(configuration: Configuration, name: str, *, as_json: bool) -> tuple[str, list[str]]:
    """Everything about the providers of one name, and what is wrong with them. Raises `PluginError`."""
    registry = open_registry(configuration.settings)
    known = {o.provider.name for o in registry.offers}
    if name not in known:
        raise PluginError(f"Nothing offers '{name}'.", place="artstore plugins", cure=suggestion(name, known))
    faults: list[str] = []
    kinds: dict[str, type[Any]] = {}
    for role in {o.role for o in registry.offers if o.provider.name == name}:
        try:
            kinds[role] = registry.choose(role, name)
        except PluginError as e:
            faults.append(str(e))
    rows = [r for r in plugin_rows(registry, configuration.settings) if r["name"] == name]
    for row in rows:
        kind = kinds.get(row["role"])
        row["settings"] = kind.Settings.model_json_schema() if kind else None
        row["capabilities"] = _capabilities(kind)
    if as_json:
        return json.dumps(rows, indent=2), faults
    return "\n\n".join("\n".join(_page(row)) for row in rows), faults


def new(name: str, role: str) -> str:
    """Make a distribution with a provider that passes its suite. Raises `InvalidField`, `Conflict`, `OSError`."""
    taken = {o.provider.name: o.plugin for o in _installed().offers if o.role == role}
    made = make(name, role, Path.cwd(), taken)
    return (
        f"Made {made.name}. Go on with:\n"
        f"  cd {made.name}\n"
        f"  pip install -e '.[test]'\n"
        f"  pytest\n"
        f"  artstore plugins {name}"
    )


def _installed() -> Registry:
    registry = Registry()
    registry.load()
    return registry


def _capabilities(kind: type[Any] | None) -> dict[str, Any] | None:
    declared = getattr(kind, "capabilities", None)
    slots = getattr(type(declared), "__slots__", ())
    return {field: getattr(declared, field) for field in slots} or None


def _width() -> int:
    return max(40, shutil.get_terminal_size((80, 24)).columns)


def _table(rows: list[dict[str, Any]]) -> str:
    cells = [{c: c.upper() for c in _COLUMNS}, *({c: str(row[c] or "-") for c in _COLUMNS} for row in rows)]
    widths = {c: max(len(cell[c]) for cell in cells) for c in _COLUMNS}
    lines: list[str] = []
    for cell, row in zip(cells, [None, *rows], strict=True):
        mark = "*" if row and row["chosen"] else " "
        lines.append(" ".join([mark, *("  ".join(cell[c].ljust(widths[c]) for c in _COLUMNS),)]).rstrip())
        if row:
            weaker = " (weaker than it should be)" * row["allows_missing_guarantees"]
            lines += _below((row["problem"] or row["summary"]) + weaker, widths["role"] + 4)
    return "\n".join(lines)


def _below(text: str, indent: int) -> list[str]:
    return textwrap.wrap(
        text, _width(), initial_indent=" " * indent, subsequent_indent=" " * indent, break_on_hyphens=False
    )


def _page(row: dict[str, Any]) -> Iterator[str]:
    chosen = ", chosen" if row["chosen"] else ""
    yield f"{row['role']} {row['name']}: {row['status']}{chosen}; {row['plugin']} {row['version']}"
    yield from _below(row["problem"] or row["summary"], 2)
    if row["capabilities"]:
        yield from _below(", ".join(f"{k} {_json(v)}" for k, v in row["capabilities"].items()), 2)
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
        yield from _below(field.get("description", ""), 6)


def _type(field: dict[str, Any], schema: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
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
