"""The shipped naming keeps what every naming must."""

from __future__ import annotations

from pathlib import Path

import pytest

from artstore.spi import Context, Naming, NoSettings
from artstore.testing.naming import NamingSuite
from artstore_naming.dated import DatedNaming

NOWHERE = Path("/nonexistent")


class TestDated(NamingSuite):
    @pytest.fixture
    def naming(self) -> Naming:
        return DatedNaming(NoSettings(), Context(home=NOWHERE, files=NOWHERE, state=NOWHERE))
