"""The configuration and the home that one call of a command works on."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from artstore.host.settings import Configuration


def read_configuration(args: argparse.Namespace, overrides: dict[str, Any] | None = None) -> Configuration:
    """Return the configuration, with the `overrides` of the command line. Raises `ConfigError`."""
    from artstore.host.settings import load
    from artstore_granian.adapters import choose_adapter

    home, file = getattr(args, "home", None), getattr(args, "config", None)
    configuration = load(home=home, config=file, overrides=overrides)
    choose_adapter(configuration)
    return configuration


def existing_home(args: argparse.Namespace) -> Configuration:
    """Return the configuration of a home that exists. Raises `ConfigError`.

    Only `artstore serve` makes a home, so that no other command makes one where the path was mistyped.
    """
    from artstore.errors import ConfigError

    configuration = read_configuration(args)
    if not configuration.home.is_dir():
        raise ConfigError(
            f"There is no home {configuration.home}.",
            place="--home or ARTSTORE_HOME",
            cure="Name the home of an element; artstore serve makes a new one.",
        )
    return configuration


def user_name() -> str:
    """Return who calls the command, for the log of the element."""
    return os.environ.get("USER") or "cli"
