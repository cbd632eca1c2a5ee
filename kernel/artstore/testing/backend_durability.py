"""Tests of what a store keeps: failing system calls, a store that does not answer, power cuts."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from artstore.errors import ArtstoreError, NotFound, Refused, StorageFull, Unavailable
from artstore.ids import Key
from artstore.spi import RecoverableBackend
from artstore.testing.backend_store import (
    DATA,
    HOUR,
    KEY,
    SIDECAR,
    BackendFixtures,
    get,
    key,
    put,
    smoke,
)
from artstore.testing.power import Disk, failing

CHANGES = ("publish", "replace_sidecar", "delete", "write_document")


def state(backend: RecoverableBackend) -> tuple[bytes | None, bytes | None, list[Key], bytes | None]:
    """Return sidecar, data, tombstones and document, as far as they exist."""
    try:
        sidecar = backend.read_sidecar(KEY)
    except NotFound:
        sidecar = None
    try:
        data = get(backend)
    except NotFound:
        data = None
    return sidecar, data, sorted(backend.list_tombstones()), backend.read_document("element.json")


class BackendDurability(BackendFixtures):
    """What `capabilities` claims, shown."""

    @pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
    def test_a_failed_system_call_is_translated_and_leaves_nothing(
        self,
        backend: RecoverableBackend,
        reopen: Callable[[], RecoverableBackend] | None,
        tmp_path: Path,
        error: int,
    ) -> None:
        """Each system call of an upload fails once, if the files of the store are below `tmp_path`."""
        for number in range(1, 1000):
            refusal: ArtstoreError | None = None
            with failing(number, tmp_path, error) as trap:
                try:
                    put(backend, key(number))
                except ArtstoreError as e:
                    refusal = e
            if refusal is not None:
                assert not isinstance(refusal, Refused), "the caller did nothing wrong"
                if reopen is not None:  # a store may refuse to continue after a disk failed
                    backend.close()
                    backend = reopen()
                    list(backend.recover())
                self.assert_nothing(backend, key(number))
            elif trap.has_failed:
                assert get(backend, key(number)) == DATA
                assert backend.read_sidecar(key(number)) == SIDECAR
            else:
                return
        pytest.fail("an upload makes more than a thousand system calls")

    def test_a_store_that_does_not_answer_raises_unavailable(
        self, backend: RecoverableBackend, unplug: Callable[[], None] | None
    ) -> None:
        if unplug is None:
            return
        put(backend)
        put(backend, key(1))
        writer = backend.create(key(2))

        def finish() -> None:
            writer.write(DATA)
            writer.publish(SIDECAR)

        unplug()
        steps: list[Callable[[], Any]] = [
            lambda: put(backend, key(3)),
            finish,
            lambda: backend.read_sidecar(KEY),
            lambda: backend.replace_sidecar(KEY, b"{}", if_match=SIDECAR),
            lambda: backend.delete(KEY, if_match=SIDECAR),
            lambda: get(backend, key(1)),
            lambda: list(backend.list(HOUR)),
            lambda: list(backend.list_directories()),
            lambda: list(backend.list_tombstones()),
            lambda: backend.write_document("element.json", b"{}"),
            lambda: backend.check(writing=True),
        ]
        for number, step in enumerate(steps):
            try:
                step()
            except (Unavailable, StorageFull):
                continue
            pytest.fail(f"step {number} did not raise `Unavailable`")
        writer.abort()

    def test_a_shared_store_can_be_opened_twice(
        self, backend: RecoverableBackend, open_second: Callable[[], RecoverableBackend] | None
    ) -> None:
        assert open_second or not backend.capabilities.shared, "it claims `shared`: override `open_second`"

    @pytest.mark.parametrize("change", CHANGES)
    def test_a_power_cut_leaves_a_change_whole_or_undone(
        self,
        backend: RecoverableBackend,
        reopen: Callable[[], RecoverableBackend] | None,
        tmp_path: Path,
        change: str,
    ) -> None:
        """The power is cut at each sync, and once after the change returned."""
        if not backend.capabilities.durable:
            return
        assert reopen is not None, "it claims `durable`: override `reopen`, so that it can be shown"
        if change != "publish":
            put(backend)
        backend.write_document("element.json", b"old")
        before = state(backend)
        with Disk(tmp_path) as disk:
            first = disk.cut()[0]
            if change == "publish":
                put(backend)
            elif change == "replace_sidecar":
                backend.replace_sidecar(KEY, b"new", if_match=SIDECAR)
            elif change == "delete":
                backend.delete(KEY, if_match=SIDECAR)
            else:
                backend.write_document("element.json", b"new")
            after = state(backend)
            last = disk.cut()
            backend.close()
            seen = last[0] != first and not self.unseen_syncs
            cuts = [(image, [before, after]) for image in disk.images]
            cuts += [(image, [after]) for image in (last if seen else last[:1])]
            for number, (image, allowed) in enumerate(cuts):
                if seen:
                    disk.restore(image)
                backend = reopen()
                list(backend.recover())
                found = state(backend)
                assert found in allowed, (
                    f"cut {number} of {len(cuts)}, left by the power cut: {sorted(image)}"
                )
                assert list(backend.recover()) == []
                backend.close()

    @smoke
    def test_no_step_of_a_replacement_shows_half_a_sidecar(self, backend: RecoverableBackend) -> None:
        if not backend.capabilities.atomic_sidecar:
            return
        versions = [b'{"a": "%s"}' % (b"a" * 3000), b'{"b": 1}', b'{"c": 2}']
        put(backend, sidecar=versions[0])
        seen: list[bytes | BaseException] = []

        def read() -> None:
            try:
                seen.append(backend.read_sidecar(KEY))
            except Exception as e:
                seen.append(e)

        profile = sys.getprofile()
        with ThreadPoolExecutor(1) as pool:
            reads: list[Future[None]] = []

            def between(*_: object) -> None:
                if not reads or reads[-1].done():
                    reads.append(pool.submit(read))
                    wait(reads[-1:], timeout=0.3)  # the read may have to wait for the replacement

            for old, new in pairwise(versions):
                sys.setprofile(between)
                try:
                    backend.replace_sidecar(KEY, new, if_match=old)
                finally:
                    sys.setprofile(profile)
        assert len(seen) > 2
        assert [s for s in seen if s not in versions] == []
