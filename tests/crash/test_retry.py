"""A client that picked the id retries after its worker died: there is one file of that id, whoever answers."""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path

from artstore.boot import open_default
from artstore.spi import SCOPES, Principal
from audit import audit

BY = Principal(id="1", name="ivanov", scopes=SCOPES)
DIES = """
import os, sys
from pathlib import Path
from artstore.boot import open_default
from artstore.spi import SCOPES, Principal

node = open_default(Path(sys.argv[1]))
node.kernel.settle_row = lambda *_, **__: os._exit(9)
session = node.kernel.begin(Principal(id="1", name="ivanov", scopes=SCOPES), filename="a.txt", file_id=sys.argv[2])
session.write(b"the same bytes")
session.commit()
"""


def test_a_retry_finds_what_a_dead_worker_published(tmp_path: Path) -> None:
    home, file_id = tmp_path / "home", str(uuid.uuid4())
    node = open_default(home)
    try:
        died = subprocess.run(
            [sys.executable, "-W", "error", "-c", DIES, str(home), file_id], check=False, timeout=60
        )
        assert died.returncode == 9
        session = node.kernel.begin(BY, filename="a.txt", file_id=file_id)
        session.write(b"the same bytes")
        attr, new = session.commit()
        assert (attr.file_id, new) == (file_id, False)
        node.kernel.delete(BY, file_id, lambda _: None)
    finally:
        node.close()
    assert audit(home) == {}
