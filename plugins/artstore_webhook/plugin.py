"""Offers the observer `webhook`."""

from artstore.hookspecs import Provider, hookimpl


@hookimpl
def artstore_observers() -> list[Provider]:
    return [
        Provider(
            name="webhook",
            target="artstore_webhook.observer:WebhookObserver",
            summary="CloudEvents by HTTP POST, signed, at least once",
        )
    ]
