"""A store serves one home at a time: two would share neither locks nor cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from artstore.errors import ConfigError
from artstore.host.boot import open_node
from artstore.host.settings import load


def test_a_second_home_is_refused_while_the_first_is_open(tmp_path: Path) -> None:
    environ = {"ARTSTORE_BACKEND__LOCAL__ROOT": str(tmp_path / "store")}
    first = open_node(load(home=tmp_path / "a", environ=environ))
    neighbour = open_node(load(home=tmp_path / "a", environ=environ))
    with pytest.raises(ConfigError, match="in use by an element with home"):
        open_node(load(home=tmp_path / "b", environ=environ))
    neighbour.close()
    first.close()
    open_node(load(home=tmp_path / "b", environ=environ)).close()
