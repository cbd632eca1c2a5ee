"""The parts of one element, as one record that the modules above receive."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from artstore.element import Element
from artstore.limits import Limits
from artstore.locks import Locks
from artstore.spi import Cache, Coordination, Log, Naming, RecoverableBackend
from artstore.stamps import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The providers of one element, its locks, its limits and its clock."""

    backend: RecoverableBackend
    cache: Cache
    naming: Naming
    log: Log
    coordination: Coordination
    locks: Locks
    element: Element
    limits: Limits
    clock: Clock = field(default_factory=Clock)

    @contextmanager
    def cluster_lock(self, name: str) -> Iterator[None]:
        """Hold the lock `name` among all processes of this node and of the nodes that share its log.

        Raises `Unavailable`.
        """
        with self.locks.exclusive(name), self.coordination.exclusive(name):
            yield
