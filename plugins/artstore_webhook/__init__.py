"""Sends every change to a URL: signed CloudEvents by HTTP POST, from an outbox that outlives the process."""
