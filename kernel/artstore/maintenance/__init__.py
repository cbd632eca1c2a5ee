"""Maintenance: compares tree, sidecars and index, and repairs what differs."""
