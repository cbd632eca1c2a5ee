"""The observer `webhook`: what it sends, when it tries again, when it gives up, and which addresses it refuses."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from artstore.attr import Attr
from artstore.errors import ConfigError, StorageFull
from artstore.spi import Change
from artstore.testing import make_attr, make_context
from artstore_webhook import endpoint, observer, outbox
from artstore_webhook.endpoint import Endpoint, PrivateAddress, is_public
from artstore_webhook.event import event_id
from artstore_webhook.observer import WebhookObserver
from artstore_webhook.outbox import Outbox
from support.receiver import SECRET, Receiver
from support.servers import until

Open = Callable[..., WebhookObserver]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.stop()


@pytest.fixture
def open_webhook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Opens observers with short pauses, and closes them."""
    for name, value in {
        "ORDER_TIMEOUT": 0.0,
        "POLL_INTERVAL": 0.01,
        "RETRY_MIN": 0.01,
        "RETRY_MAX": 0.05,
    }.items():
        monkeypatch.setattr(observer, name, value)
    made: list[WebhookObserver] = []

    def open_it(url: str, **settings: Any) -> WebhookObserver:
        told = WebhookObserver.Settings(**{"url": url, "secret": SECRET, "allow_private": True} | settings)
        made.append(WebhookObserver(told, make_context(tmp_path)))
        return made[-1]

    yield open_it
    for one in made:
        one.close()


def tell(webhook: WebhookObserver, op: Change = "upload", attr: Attr | None = None) -> Attr:
    attr = attr or make_attr()
    webhook.committed(op, attr.file_id, attr.key, attr)
    return attr


def names(home: Path, place: str) -> list[str]:
    return sorted(p.name for p in (home / "state" / "webhook" / place).iterdir())


def test_an_event_is_a_signed_cloudevent(open_webhook: Open, receiver: Receiver) -> None:
    webhook = open_webhook(receiver.url)
    attr = tell(webhook, attr=make_attr(original_filename="отчёт.pdf", metadata={"a": [1]}))
    until(lambda: receiver.taken, "the event comes")
    (event,) = receiver.taken
    assert event == {
        "specversion": "1.0", "id": event["id"], "source": "https://artstore.dev/elements/",
        "type": "dev.artstore.file.uploaded", "subject": attr.file_id, "time": attr.updated_at,
        "datacontenttype": "application/json", "data": attr.model_dump(mode="json", exclude={"schema_version"}),
    }  # fmt: skip
    headers, _ = receiver.posts[0]
    assert headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert headers["host"] == receiver.url.split("/")[2]
    assert "." not in event["id"]


def test_a_change_that_is_reported_again_is_not_sent_again(
    open_webhook: Open, receiver: Receiver, tmp_path: Path
) -> None:
    webhook = open_webhook(receiver.url)
    attr = tell(webhook)
    until(lambda: names(tmp_path, "sent"), "the first is sent")
    tell(webhook, attr=attr)
    webhook.committed("delete", attr.file_id, attr.key, None)
    until(lambda: len(receiver.taken) == 2, "the second is sent")
    assert receiver.taken[1]["type"] == "dev.artstore.file.deleted"
    assert receiver.taken[1]["data"] == {
        "file_id": attr.file_id, "storage_path": attr.storage_path, "storage_filename": attr.storage_filename,
    }  # fmt: skip
    tell(webhook, "delete", attr)  # now with the attr: the same event
    until(lambda: not names(tmp_path, "new"), "nothing waits")
    assert len(receiver.posts) == 2


def hang(receiver: Receiver, handler: BaseHTTPRequestHandler) -> None:
    handler.connection.recv(1)  # until the sender closes


def drip(receiver: Receiver, handler: BaseHTTPRequestHandler) -> None:
    try:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            handler.wfile.write(b"x")
            threading.Event().wait(0.05)
    except OSError:
        pass


def slam(receiver: Receiver, handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def babble(receiver: Receiver, handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"220 mail.example ESMTP\r\n")


@pytest.mark.parametrize("trouble", [500, 503, 429, 408, 425, hang, drip, slam, babble])
def test_events_are_retried_in_order_while_the_receiver_fails(
    open_webhook: Open, receiver: Receiver, trouble: Any
) -> None:
    receiver.answers = lambda n: trouble if n < 2 else 204
    webhook = open_webhook(receiver.url, timeout=0.2 if trouble in (hang, drip) else 10)
    attrs = [tell(webhook) for _ in range(3)]
    until(lambda: len(receiver.taken) == 3, "all three are taken")
    assert [event["subject"] for event in receiver.taken] == [attr.file_id for attr in attrs]
    assert len({headers["webhook-id"] for headers, _ in receiver.posts[:3]}) == 1
    assert len(receiver.posts) == 5


def test_events_wait_for_a_receiver_that_is_down(open_webhook: Open, receiver: Receiver) -> None:
    port, url = receiver.server_address[1], receiver.url
    receiver.stop()
    webhook = open_webhook(url)
    attr = tell(webhook)
    until(lambda: webhook._failures > 2, "it tried")
    late = Receiver(port=port)
    try:
        until(lambda: late.taken, "the event comes")
        assert late.taken[0]["subject"] == attr.file_id
    finally:
        late.stop()
    receiver.__init__()  # type: ignore[misc]  # for the fixture to stop


@pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 404, 410, 422])
def test_an_event_that_the_receiver_refuses_is_given_up_and_the_next_is_sent(
    open_webhook: Open, receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    receiver.answers = lambda n: status if n == 0 else 204
    webhook = open_webhook(receiver.url)
    refused, taken = tell(webhook), tell(webhook)
    until(lambda: receiver.taken, "the second is taken")
    assert receiver.taken[0]["subject"] == taken.file_id
    assert len(receiver.posts) == 2  # no redirect was followed
    (dead,) = names(tmp_path, "dead")
    assert dead.startswith(refused.file_id)
    assert f"is given up: it answered {status}" in caplog.text
    # A change that is reported again stays given up. An event that is moved back by hand is tried again.
    tell(webhook, attr=refused)
    webhook.close()
    caplog.clear()
    again = open_webhook(receiver.url)
    assert "1 event(s) were given up" in caplog.text
    place = tmp_path / "state" / "webhook"
    shutil.move(place / "dead" / dead, place / "new" / dead)
    # The other event may come once more: the close may have interrupted its answer.
    until(lambda: receiver.steps(refused.file_id), "it is taken")
    again.close()


def test_an_event_is_given_up_after_retry_for_hours(
    open_webhook: Open, receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = lambda n: 500
    webhook = open_webhook(receiver.url, retry_for_hours=0.2 / 3600)
    tell(webhook)
    until(lambda: names(tmp_path, "dead"), "it is given up")
    assert len(receiver.posts) >= 2
    assert "is given up after" in caplog.text


def test_retry_after_is_honoured_up_to_the_longest_pause(
    open_webhook: Open, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    def later(receiver: Receiver, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(503)
        handler.send_header("Retry-After", "9999999")
        handler.end_headers()

    receiver.answers = lambda n: later if n == 0 else 204
    webhook = open_webhook(receiver.url)
    with caplog.at_level(logging.INFO):
        tell(webhook)
        until(lambda: receiver.taken, "it is taken, after the longest pause")
        until(lambda: "accepts events again" in caplog.text, "that is told")


def test_the_events_of_a_file_are_sent_in_the_order_of_its_changes(
    open_webhook: Open, receiver: Receiver
) -> None:
    gate = threading.Event()

    def wait(receiver: Receiver, handler: BaseHTTPRequestHandler) -> None:
        gate.wait(30)

    receiver.answers = lambda n: wait if n == 0 else 204
    webhook = open_webhook(receiver.url)
    tell(webhook)
    until(lambda: receiver.posts, "the line is held up")
    one, two = make_attr(), make_attr()
    # As several processes put them, which do not wait for each other.
    tell(webhook, "delete", one.model_copy(update={"revision": 12}))
    for revision in (12, 2, 1, 9):
        for attr in (two, one):
            op: Change = "upload" if revision == 1 else "update"
            tell(webhook, op, attr.model_copy(update={"revision": revision}))
    gate.set()
    until(lambda: len(receiver.taken) == 10, "all are taken")
    assert receiver.steps(two.file_id) == [("uploaded", 1), ("updated", 2), ("updated", 9), ("updated", 12)]
    assert receiver.steps(one.file_id) == [*receiver.steps(two.file_id), ("deleted", 12)]


def test_an_event_waits_for_its_predecessor_and_holds_up_no_other_file(
    open_webhook: Open, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observer, "ORDER_TIMEOUT", 600.0)
    webhook = open_webhook(receiver.url)
    one = make_attr()
    later = [one.model_copy(update={"revision": n}) for n in (2, 3)]
    tell(webhook, "delete", later[1])
    for attr in reversed(later):
        tell(webhook, "update", attr)
    for n in range(3):
        tell(webhook)
        until(lambda n=n: len(receiver.taken) == n + 1, "another file is told")  # type: ignore[misc]
    assert receiver.steps(one.file_id) == []
    tell(webhook, "upload", one)
    until(lambda: len(receiver.taken) == 7, "now all are told")
    assert receiver.steps(one.file_id) == [("uploaded", 1), ("updated", 2), ("updated", 3), ("deleted", 3)]
    # An event does not wait for a predecessor that was sent, nor for one that cannot be known.
    two, three = make_attr(), make_attr(revision=4)
    tell(webhook, "upload", two)
    until(lambda: receiver.steps(two.file_id), "it is sent")
    tell(webhook, "update", two.model_copy(update={"revision": 2}))
    webhook.committed("delete", three.file_id, three.key, None)
    until(lambda: len(receiver.taken) == 10, "all are told")
    tell(webhook, "update", three)
    until(lambda: len(names(tmp_path, "new")) == 1, "that one waits")
    monkeypatch.setattr(observer, "ORDER_TIMEOUT", 0.0)
    until(lambda: receiver.steps(three.file_id)[1:], "until it is time")


def test_one_process_delivers_and_another_takes_over_after_it_closed(
    open_webhook: Open, receiver: Receiver
) -> None:
    several = [open_webhook(receiver.url) for _ in range(3)]
    for n in range(30):
        tell(several[n % 3])
    until(lambda: len(receiver.taken) == 30, "all are taken")
    leaders = [one for one in several if one._outbox._sender is not None]
    assert len(leaders) == 1
    leaders[0].close()
    others = [one for one in several if one is not leaders[0]]
    tell(others[0])
    until(lambda: len(receiver.taken) == 31, "another delivers")
    assert len(receiver.posts) == 31


def test_closing_does_not_wait_for_a_receiver(open_webhook: Open, receiver: Receiver, tmp_path: Path) -> None:
    receiver.answers = lambda n: hang
    webhook = open_webhook(receiver.url, timeout=60)
    tell(webhook)
    until(lambda: receiver.posts, "it is under way")
    webhook.close()
    assert not webhook._thread.is_alive()
    assert len(names(tmp_path, "new")) == 1


# --- the outbox ---


def test_an_event_outlives_the_process(open_webhook: Open, receiver: Receiver, tmp_path: Path) -> None:
    box = Outbox(tmp_path / "state" / "webhook")
    box.put("a_b_1", json.dumps({"id": "a_b_1", "subject": "a", "type": "x"}).encode())
    box.put("a_b_1", b"told again")
    box.flush()
    (tmp_path / "state" / "webhook" / "new" / ".half").write_bytes(b"{")
    open_webhook(receiver.url)
    until(lambda: receiver.taken, "it is taken")
    assert [event["id"] for event in receiver.taken] == ["a_b_1"]


@pytest.mark.parametrize("torn", [b"", bytes(700), b'{"specversion": "1.0", "id'])
def test_an_event_torn_by_a_power_cut_is_replaced_by_the_next_report(
    open_webhook: Open, receiver: Receiver, tmp_path: Path, torn: bytes
) -> None:
    attr = make_attr()
    Outbox(tmp_path / "state" / "webhook").put(event_id("upload", attr.file_id, attr.key, attr), torn)
    tell(open_webhook(receiver.url), attr=attr)
    until(lambda: receiver.taken, "it is taken")
    assert [event["subject"] for event in receiver.taken] == [attr.file_id]
    assert len(receiver.posts) == 1


def test_the_sweep_removes_old_sent_events_and_half_written_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Outbox(tmp_path)
    for name in ("a", "b"):
        box.put(name, b"{}")
    box.move_to_sent("a")
    (tmp_path / "new" / ".half").write_bytes(b"{")
    box.sweep()
    assert os.listdir(tmp_path / "sent") == ["a.json"]
    monkeypatch.setattr(outbox, "SENT_RETENTION", -1)
    box.sweep()
    assert os.listdir(tmp_path / "sent") == []
    assert os.listdir(tmp_path / "new") == ["b.json"]


def test_an_outbox_without_space_raises_storage_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = Outbox(tmp_path)

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(StorageFull):
            box.put("a", b"{}")
    box.put("a", b"{}")
    box.flush()
    assert box.list_due(0) == ["a"]


# --- addresses that get no request ---

PRIVATE = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0",
    "fc00::1", "fd12::1", "fec0::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
    "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::", "2002:a00:1::1", "2002:808:808::1",
    "2001:db8::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2",
]  # fmt: skip
PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "2606:4700:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
]


@pytest.mark.parametrize(("addresses", "public"), [(PRIVATE, False), (PUBLIC, True)])
def test_which_addresses_are_public(addresses: list[str], public: bool) -> None:
    assert [a for a in addresses if is_public(a) is not public] == []


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://localhost:80/",
        "http://[::1]/",
        "https://a.localhost/",
        "http://10.0.0.1/",
    ],
)
def test_a_url_with_a_private_address_is_a_configuration_error(open_webhook: Open, url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_webhook(url, allow_private=False)
    assert caught.value.place == "observer.webhook.url"
    assert "allow_private = true" in str(caught.value)


def test_a_name_that_resolves_to_a_private_address_gets_no_request(
    open_webhook: Open, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    port = receiver.server_address[1]
    webhook = open_webhook(f"http://2130706433:{port}/", allow_private=False)
    tell(webhook)
    until(lambda: "which is no public address" in caplog.text, "it says why")
    for number in ("2130706433", "0x7f.1"):
        with pytest.raises(PrivateAddress):
            Endpoint(f"http://{number}:{port}/", timeout=5, allow_private=False).resolve()
    assert receiver.posts == []


def test_the_connection_goes_to_the_address_that_was_checked(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that resolves to a public address at first, and to a private one the second time."""
    port = receiver.server_address[1]
    asked: list[str] = []

    def resolve(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        address = "192.0.2.1" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    dialled: list[str] = []

    def dial(address: tuple[str, int], timeout: float) -> socket.socket:
        dialled.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(endpoint.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(endpoint.socket, "create_connection", dial)
    monkeypatch.setattr(endpoint, "is_public", lambda address: address == "192.0.2.1")
    with pytest.raises(ConnectionRefusedError):
        Endpoint(f"http://rebinding.example:{port}/", timeout=5, allow_private=False).post(b"{}", {})
    assert asked == ["rebinding.example"]
    assert dialled == ["192.0.2.1"]


def test_an_https_url_never_gets_a_request_in_plain_text(
    open_webhook: Open, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    webhook = open_webhook(receiver.url.replace("http://", "https://"))
    tell(webhook)
    until(lambda: "SSL" in caplog.text, "the handshake fails")
    assert receiver.posts == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"url": "ftp://example.org/"}, "must be an http or https URL"),
        ({"url": "https://u:p@example.org/"}, "must not hold a user name"),
        ({"url": "https://example.org/#a"}, "must not hold a fragment"),
        ({"url": "https://example.org/ü"}, "must be plain ASCII"),
        ({"url": "https://example.org:0/"}, "must not name port 0"),
        ({"url": "https://example.org:99999/"}, "out of range"),
        ({"secret": "hunter2"}, "openssl rand"),
        ({"secret": "whsec_AAAA"}, "openssl rand"),
        ({"secret": "whsec_не"}, "openssl rand"),
        ({"timeout": 0}, "greater than 0"),
        ({"retries": 3}, "not permitted"),
    ],
)
def test_invalid_settings_are_refused(changes: dict[str, Any], told: str) -> None:
    sound = {"url": "https://example.org/hook", "secret": SECRET}
    WebhookObserver.Settings(**sound)
    with pytest.raises(ValueError, match=told):
        WebhookObserver.Settings(**sound | changes)
