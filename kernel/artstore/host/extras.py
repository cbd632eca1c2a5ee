"""What an extra of a distribution needs, and whether it is there: from metadata, without importing anything."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, requires


def missing(distribution: str, extra: str) -> Iterable[str]:
    """The libraries of an extra that are not installed."""
    try:
        needed = requires(distribution) or []
    except PackageNotFoundError:
        return
    for requirement in needed:
        wanted, _, condition = requirement.partition(";")
        name = re.match(r"[A-Za-z0-9._-]+", wanted)
        if name and re.search(rf"extra\s*==\s*['\"]{re.escape(extra)}['\"]", condition):
            try:
                Distribution.from_name(name[0])
            except PackageNotFoundError:
                yield name[0]
