"""The suite for observers, held to the webhook."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from artstore.spi import Observer
from artstore.testing import ObserverSuite, make_context
from artstore.testing.observer import Noted
from artstore_webhook import observer as module
from artstore_webhook.observer import WebhookObserver
from support.receiver import SECRET, Receiver
from support.stores import opening

CHANGES = {"uploaded": "upload", "updated": "update", "deleted": "delete"}


class TestWebhook(ObserverSuite):
    @pytest.fixture
    def receiver(self) -> Iterator[Receiver]:
        receiver = Receiver()
        yield receiver
        receiver.stop()

    @pytest.fixture
    def opened(
        self, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Callable[[], Observer]]:
        for name, value in {
            "ORDER_TIMEOUT": 0.0,
            "POLL_INTERVAL": 0.01,
            "RETRY_MIN": 0.01,
            "RETRY_MAX": 0.05,
        }.items():
            monkeypatch.setattr(module, name, value)
        settings = {"url": receiver.url, "secret": SECRET, "allow_private": True}
        with opening(
            lambda: WebhookObserver(WebhookObserver.Settings.model_validate(settings), make_context(tmp_path))
        ) as open_it:
            yield open_it

    @pytest.fixture
    def observer(self, opened: Callable[[], Observer]) -> Observer:
        return opened()

    @pytest.fixture
    def noted(self, receiver: Receiver) -> Noted:
        return lambda: [
            (CHANGES[event["type"].rpartition(".")[2]], event["subject"]) for event in receiver.taken
        ]

    @pytest.fixture
    def reopen(
        self, observer: Observer, opened: Callable[[], Observer], receiver: Receiver
    ) -> Callable[[], Observer]:
        receiver.answers = lambda n: 503  # nothing is delivered before the observer is opened again

        def reopen() -> Observer:
            observer.close()
            receiver.answers = lambda n: 204
            return opened()

        return reopen
