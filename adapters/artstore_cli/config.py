"""`artstore config`: every setting that counts, and where it came from."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from artstore.host.exit_codes import OK
from artstore.host.plugin_list import tables_of
from artstore.host.providers import open_registry, provider_settings
from artstore.host.roles import ROLES
from artstore.host.settings import Configuration, Settings
from artstore_cli.invocation import read_configuration
from artstore_granian.adapters import choose_adapter


def config(args: argparse.Namespace) -> int:
    """`artstore config`: validate the configuration, and print it or only the result."""
    configuration = read_configuration(args)
    settings = _all_settings(configuration)
    if args.what == "check":
        if args.json:
            print(json.dumps({"ok": True, "file": str(configuration.file) if configuration.file else None}))
        else:
            print(f"The configuration is fine ({configuration.file or 'no file'}).")
    elif args.json:
        print(json.dumps({"home": str(configuration.home), "settings": settings}, indent=2))
    else:
        print(f"# home: {configuration.home}\n# file: {configuration.file or 'none'}")
        for dotted, value in _flatten(settings):
            print(_line(dotted, value, configuration))
    return OK


def _all_settings(configuration: Configuration) -> dict[str, Any]:
    """Return all settings, with secrets hidden: our own, then those of the providers that are used.

    Raises `ConfigError`, `PluginError`.
    """
    registry = open_registry(configuration.settings)
    roles = [name for name in Settings.model_fields if name in ROLES]
    used = {role: provider_settings(role, configuration, registry) for role in roles}
    shown = configuration.settings.model_dump(mode="json", exclude=set(roles))
    shown["server"]["adapter"] = choose_adapter(configuration).name
    for role, providers in used.items():
        section = tables_of(configuration.settings, role)
        shown[role] = section.model_dump(mode="json", include=set(type(section).model_fields))
        shown[role] |= {name: settings.model_dump(mode="json") for name, settings in providers.items()}
    return shown


def _flatten(tree: dict[str, Any], under: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{under}{key}.")
        else:
            yield f"{under}{key}", value


def _line(dotted: str, value: Any, configuration: Configuration) -> str:
    if value is None:  # TOML has no word for it
        return f"# {dotted} is not set"
    sources = configuration.sources
    source = sources.get(dotted) or sources.get(f"{dotted}_file", "default")
    return f"{dotted} = {json.dumps(value, ensure_ascii=False)}  # {source}"
