"""Tells a URL of every change: CloudEvents by HTTP POST, signed, from an outbox that outlives the process."""
