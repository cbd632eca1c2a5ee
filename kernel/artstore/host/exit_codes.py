"""The exit codes of every command and of every process that serves."""

from __future__ import annotations

OK = 0
FAILED = 1
USAGE = 2
"""The command line is wrong. argparse uses this code."""
DAMAGE = 6
"""Damage was found in the store."""
UNREACHABLE = 7
"""A part of the element, or the element itself, does not answer; a later try may succeed."""
CONFIGURATION = 78
"""The configuration is wrong: `EX_CONFIG` of sysexits.h."""
INTERRUPTED = 130
"""Ended by Ctrl-C: 128 and the number of SIGINT."""
