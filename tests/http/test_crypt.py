"""An element whose data is encrypted: over HTTP it looks like any other, until its files are changed in the store."""

from __future__ import annotations

import base64
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from artstore.host.boot import open_node
from artstore.host.settings import load
from artstore.spi import Principal
from artstore_cli.main import main
from support import servers
from support.servers import Element

Start = Callable[..., Element]

OLD, NEW = (base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))
DATA = random.Random(7).randbytes(2_500_000)


def crypt(key: str, *old: str, **more: str) -> dict[str, str]:
    return {"BACKEND": "crypt", "BACKEND__CRYPT__KEY": key, "BACKEND__CRYPT__OLD_KEYS": ",".join(old)} | more


def data_of(element: Element, made: dict[str, Any]) -> Path:
    return element.home / "files" / made["storage_path"] / made["storage_filename"]


def expect_fault(element: Element) -> None:
    """Check the faults in the log that the test caused, and remove them."""
    log = element.log.read_text()
    faults = [f for f in servers._FAULTS.findall(log) if "Traceback" in f or "Warning" in f]
    assert not faults, log[-3000:]
    element.log.write_text("")


def test_an_element_with_encryption(start: Start, adapter: str, tmp_path: Path) -> None:
    (tmp_path / "master.key").write_text(OLD + "\n")
    settings = {"BACKEND": "crypt", "BACKEND__CRYPT__KEY_FILE": str(tmp_path / "master.key")}
    element = start(adapter, workers=2, settings=settings)
    made = element.upload(DATA, "отчёт.bin", tags='["a"]')
    assert made["size"] == len(DATA)
    lies = data_of(element, made)
    assert lies.stat().st_size == len(DATA) + 16 * 39
    assert DATA[:64] not in lies.read_bytes()
    whole = element.download(made["file_id"])
    assert (whole.status, whole.body) == (200, DATA)
    for first, last in [(0, 0), (65535, 65536), (1_000_000, 2_400_000), (2_499_999, 2_499_999)]:
        part = element.download(made["file_id"], ("Range", f"bytes={first}-{last}"))
        assert (part.status, part.body) == (206, DATA[first : last + 1])
    several = element.download(made["file_id"], ("Range", "bytes=0-9,65530-65545"))
    assert several.status == 206
    assert DATA[:10] in several.body
    assert DATA[65530:65546] in several.body
    head = element.ask("HEAD", f"/api/v1/files/{made['file_id']}/download")
    assert (head.status, head.header("content-length")) == (200, str(len(DATA)))
    # Its sidecar is readable, and its encryption shows in no answer.
    sidecar = json.loads(lies.with_name(lies.name + ".attr.json").read_text())
    assert sidecar["crypt"]["size"] == len(DATA)
    assert "crypt" not in element.get(f"/api/v1/files/{made['file_id']}").json()
    changed = element.patch(made["file_id"], {"description": "new"})
    assert (changed.status, changed.json()["revision"]) == (200, 2)
    assert element.download(made["file_id"]).body == DATA
    # The room that the key takes is part of the limit.
    element.patch(made["file_id"], {"metadata": {"a": "x" * 3500}}).problem(422, "invalid-field")
    with element.unchanged():
        answer = element.post_form(
            [servers.text("metadata", json.dumps({"a": "x" * 3500})), servers.file(b"x")]
        )
        answer.problem(422, "invalid-field")
    element.upload(b"x", metadata=json.dumps({"a": "x" * 3000}))
    # The data is changed in the store: that is reported before a byte is sent.
    small = element.upload(DATA[:1000])
    for one, at in ((small, 10), (made, 70_000)):
        changed_data = bytearray(data_of(element, one).read_bytes())
        changed_data[at] ^= 1
        data_of(element, one).write_bytes(changed_data)
        answer = element.download(one["file_id"])
        assert (answer.status, answer.json()["code"]) == (500, "damaged"), answer
    untouched = element.download(made["file_id"], ("Range", "bytes=131072-"))
    assert (untouched.status, untouched.body) == (206, DATA[131072:])
    expect_fault(element)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"BACKEND": "crypt"}, "backend.crypt.key: is needed"),
        (crypt("c2hvcnQ="), "must be 32 bytes in base64"),
        (crypt(NEW), "This store needs the master key"),
        (crypt(OLD, NEW, BACKEND__CRYPT__INNER="crypt"), "A backend cannot wrap itself: crypt -> crypt"),
        (crypt(OLD, BACKEND__CRYPT__INNER="locl"), "Did you mean 'local'?"),
        (crypt(OLD, BACKEND__CRYPT__KEY_FILE="/nowhere"), "/nowhere cannot be read"),
    ],
)
def test_a_wrong_setting_is_named_with_its_cure(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, str],
    message: str,
) -> None:
    def recover(settings: dict[str, str]) -> int:
        with monkeypatch.context() as patch:
            for name, value in settings.items():
                patch.setenv(f"ARTSTORE_{name}", value)
            return main(["recover", "--home", str(tmp_path / "home")])

    (tmp_path / "home").mkdir()
    assert recover(crypt(OLD)) == 0
    environment = {f"ARTSTORE_{name}": value for name, value in crypt(OLD).items()}
    node = open_node(load(home=tmp_path / "home", environ=environment))
    node.kernel.begin(Principal(id="u-1", name="ivanov"), filename="a.txt").abort()
    node.close()
    if "BACKEND__CRYPT__KEY_FILE" in settings:
        settings = {n: v for n, v in settings.items() if n != "BACKEND__CRYPT__KEY"}
    capsys.readouterr()
    assert recover(settings) == 78
    error = capsys.readouterr().err
    assert message in error
    assert "c2hvcnQ=" not in error
    assert OLD not in error


def test_the_master_key_is_changed_while_the_element_serves(start: Start, tmp_path: Path) -> None:
    home = tmp_path / "home"
    element = start("starlette", home=home, settings=crypt(OLD))
    made = [element.upload(DATA[:1000], f"{n}.bin") for n in range(8)]
    element.stop()
    both = crypt(NEW, OLD)
    element = start("starlette", home=home, settings=both)
    made.append(element.upload(DATA[:1000], "new.bin"))
    run = servers.artstore(home, "rekey", "--json", settings=both)
    assert (run.returncode, json.loads(run.stdout)) == (
        0, {"renewed": 8, "present": 1, "plain": 0, "damaged": 0},
    ), run  # fmt: skip
    assert (
        servers.artstore(home, "rekey", settings=both).stdout
        == "Files: 0 renewed, 9 present, 0 plain, 0 damaged.\n"
    )
    for one in made:
        assert element.download(one["file_id"]).body == DATA[:1000]
    path = data_of(element, made[0])
    sidecar = path.with_name(path.name + ".attr.json")
    sidecar.write_text(re.sub(r'"key_id": "\w+"', '"key_id": "0000000000000000"', sidecar.read_text()))
    run = servers.artstore(home, "rekey", settings=crypt(NEW))
    assert run.returncode == 6
    assert "1 damaged" in run.stdout


def test_rekey_is_refused_where_nothing_is_encrypted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rekey", "--home", str(tmp_path)]) == 78
    assert "This backend encrypts nothing." in capsys.readouterr().err
