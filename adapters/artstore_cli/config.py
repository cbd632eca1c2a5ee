"""`artstore config`: every setting that counts, and where it came from."""

from __future__ import annotations

import argparse
import json
from typing import Any

from artstore.host.boot import open_registry, provider_settings
from artstore.host.settings import ROLES, Configuration


def config(args: argparse.Namespace, configuration: Configuration) -> int:
    """`artstore config`"""
    registry = open_registry(configuration.settings)
    chosen = {role: provider_settings(role, configuration, registry) for role in (*ROLES, "observer")}
    if args.what == "check":
        if args.json:
            print(json.dumps({"ok": True, "file": str(configuration.file) if configuration.file else None}))
        else:
            print(f"The configuration is fine ({configuration.file or 'no file'}).")
        return 0
    shown = configuration.settings.model_dump(mode="json", exclude=set(chosen))
    for role, settings in chosen.items():
        tables = {name: below.model_dump(mode="json") for name, below in settings.items()}
        own = getattr(configuration.settings, role)
        shown[role] = own.model_dump(mode="json", include=set(type(own).model_fields)) | tables
    if args.json:
        print(json.dumps({"home": str(configuration.home), "settings": shown}, indent=2))
        return 0
    print(f"# home: {configuration.home}\n# file: {configuration.file or 'none'}")
    for dotted, value in _flat(shown):
        if value is None:  # which TOML has no word for
            print(f"# {dotted} is not set")
        else:
            sources = configuration.sources
            source = sources.get(dotted) or sources.get(f"{dotted}_file", "default")
            print(f"{dotted} = {json.dumps(value, ensure_ascii=False)}  # {source}")
    return 0


def _flat(tree: dict[str, Any], under: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in tree.items():
        found += _flat(value, f"{under}{key}.") if isinstance(value, dict) else [(f"{under}{key}", value)]
    return found
