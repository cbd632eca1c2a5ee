"""Tests that do a share in each run, and the whole by `tox -e long`."""

from __future__ import annotations

from typing import Any

import pytest


def usual_or_long(name: str, usual: Any, long: Any, *, timeout: int = 1800) -> pytest.MarkDecorator:
    """Give a test `name` with two values: `usual`, and in a test of its own, marked `long`, the other.

    `timeout`: seconds that the long one may take; the usual one has that of its function or module.
    """
    marks = [pytest.mark.long, pytest.mark.timeout(timeout)]
    return pytest.mark.parametrize(
        name, [pytest.param(usual, id="usual"), pytest.param(long, id="long", marks=marks)]
    )
