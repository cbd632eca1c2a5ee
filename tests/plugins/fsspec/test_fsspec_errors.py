"""What the errors of a file system mean to a caller."""

from __future__ import annotations

import errno
import os

import pytest

from artstore.errors import ArtstoreError, StorageFull, TooLarge, Unavailable
from artstore_fsspec.namespace import translate_errors


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.EFBIG, TooLarge),
        (errno.ENOSPC, StorageFull),
        (errno.EDQUOT, StorageFull),
        (errno.EIO, Unavailable),
        (errno.EACCES, Unavailable),
    ],
)
def test_a_file_that_is_too_large_is_no_outage(number: int, expected: type[ArtstoreError]) -> None:
    with pytest.raises(expected), translate_errors("this file"):
        raise OSError(number, os.strerror(number))
