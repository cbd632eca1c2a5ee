"""Offers the naming `dated`."""

from __future__ import annotations

from artstore.hookspecs import Provider, hookimpl


@hookimpl
def artstore_namings() -> list[Provider]:
    return [
        Provider(
            name="dated",
            target="artstore_naming.dated:DatedNaming",
            summary="report_ivanov_20250111T153045_a1b2c3d4.pdf in 2025/01/11/15 (UTC)",
        )
    ]
