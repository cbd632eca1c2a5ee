"""The webhook of an element that is killed and started again: every change is delivered."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from artstore_cli.main import main
from support.receiver import SECRET, Receiver
from support.servers import Element, file_path, until

Start = Callable[..., Element]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.stop()


def events(url: str) -> dict[str, str]:
    return {
        "OBSERVER__WEBHOOK__URL": url,
        "OBSERVER__WEBHOOK__SECRET": SECRET,
        "OBSERVER__WEBHOOK__ALLOW_PRIVATE": "true",
    }


def life(element: Element) -> str:
    """Upload a file, change it twice and delete it; return its id."""
    made: dict[str, Any] = element.upload(b"x")
    for text in ("one", "two"):
        assert element.patch(made["file_id"], {"description": text}).status == 200
    assert element.ask("DELETE", file_path(made["file_id"])).status == 204
    return str(made["file_id"])


LIFE = [("uploaded", 1), ("updated", 2), ("updated", 3), ("deleted", 3)]


def test_the_changes_of_a_file_are_delivered_in_order(start: Start, adapter: str, receiver: Receiver) -> None:
    element = start(adapter, workers=2, settings=events(receiver.url) | {"ELEMENT_ID": "se-7"})
    with ThreadPoolExecutor(4) as pool:
        lives = list(pool.map(lambda _: life(element), range(12)))
    until(lambda: len(receiver.taken) >= 48, "all are delivered")
    for file_id in lives:
        assert receiver.steps(file_id) == LIFE
    assert {event["source"] for event in receiver.taken} == {"https://artstore.dev/elements/se-7"}
    assert len(receiver.posts) == 48


def test_acknowledged_changes_are_delivered_after_a_kill(
    start: Start, tmp_path: Path, receiver: Receiver
) -> None:
    home = tmp_path / "home"
    receiver.answers = lambda n: 503  # nothing gets through while it lives
    expected: list[tuple[str, str, int | None]] = []
    for _ in range(2):
        element = start("starlette", home=home, workers=2, settings=events(receiver.url))
        try:
            with ThreadPoolExecutor(4) as pool:
                made = list(pool.map(element.upload, [b"x"] * 20))
            changed, gone = made[0]["file_id"], made[1]["file_id"]
            assert element.patch(changed, {"description": "new"}).status == 200
            assert element.ask("DELETE", file_path(gone)).status == 204
        finally:
            element.kill()  # with changes in line, in the outbox and under way
        expected += [("uploaded", one["file_id"], 1) for one in made[2:]]
        expected += [("updated", changed, 2), ("deleted", gone, None)]
        element.exits = (-signal.SIGKILL,)
    receiver.answers = lambda n: 204
    start("starlette", home=home, workers=2, settings=events(receiver.url))

    def delivered() -> set[tuple[str, str]]:
        return {(event["type"].rpartition(".")[2], event["subject"]) for event in receiver.taken}

    until(lambda: {(what, file_id) for what, file_id, _ in expected} <= delivered(), "all are delivered")
    # Delivery is at least once: what a dead process may not have delivered is delivered again. Then it comes twice
    # under one id: the same change has the same id, and no two changes share one.
    changes = {(event["id"], event["type"], event["subject"], revision(event)) for event in receiver.taken}
    assert len({change[0] for change in changes}) == len({change[1:] for change in changes}) == len(changes)


def revision(event: dict[str, Any]) -> int | None:
    """Return the revision; None for a deletion, whose event may have less content after a crash."""
    return None if event["type"].endswith("deleted") else event["data"]["revision"]


def test_an_element_serves_while_its_receiver_fails(start: Start, receiver: Receiver) -> None:
    receiver.answers = lambda n: 500
    element = start("falcon", settings=events(receiver.url))
    made = [element.upload(b"x") for _ in range(5)]
    until(lambda: receiver.posts, "it tries to deliver")
    assert element.get("/health/ready").status == 200
    assert len(list((element.home / "state/webhook/new").iterdir())) == 5
    receiver.answers = lambda n: 204
    until(lambda: len(receiver.taken) == 5, "all are delivered")
    assert [event["subject"] for event in receiver.taken] == [one["file_id"] for one in made]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"OBSERVER__WEBHOOK__URL": "http://10.0.0.1/"}, "10.0.0.1 is no public address"),
        ({"OBSERVER__WEBHOOK__URL": "ftp://example.org/"}, "must be an http or https URL"),
        ({"OBSERVER__WEBHOOK__SECRET": "hunter2"}, "whsec_"),
        ({"OBSERVER__WEBHOK__URL": "https://example.org"}, "There is no observer 'webhok' to set"),
        ({"OBSERVER": "webhook"}, "ARTSTORE_OBSERVER"),
    ],
)
def test_a_wrong_setting_is_named_with_its_place(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, str],
    message: str,
) -> None:
    sound = {"OBSERVER__WEBHOOK__URL": "https://example.org/", "OBSERVER__WEBHOOK__SECRET": SECRET}
    for name, value in (settings if "OBSERVER" in settings else sound | settings).items():
        monkeypatch.setenv(f"ARTSTORE_{name}", value)
    assert main(["recover", "--home", str(tmp_path)]) == 78
    error = capsys.readouterr().err
    assert message in error
    assert "hunter2" not in error


def test_settings_are_shown_without_the_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in events("http://127.0.0.1:1/").items():
        monkeypatch.setenv(f"ARTSTORE_{name}", value)
    assert main(["config", "show", "--home", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert 'observer.webhook.url = "http://127.0.0.1:1/"  # ARTSTORE_OBSERVER__WEBHOOK__URL' in shown
    assert SECRET not in shown
    assert main(["plugins", "--home", str(tmp_path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows if row["role"] == "observer" and row["chosen"]] == ["webhook"]
