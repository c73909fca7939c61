"""A part of an open file as a file of its own, for libraries that send a file from beginning to end."""

from __future__ import annotations

import os
from typing import BinaryIO

from enlight_common.storage.copying import local_errors, source_too_short


class Slice:
    """`size` bytes of `source` from `start` on; position 0 is the first of them.

    Reads are whole, and raise StoreCorrupt when the file has become shorter. Closing it leaves `source` open.
    """

    def __init__(self, source: BinaryIO, start: int, size: int) -> None:
        self._source = source
        self._start = start
        self._size = size
        self._at = 0

    def read(self, amount: int | None = -1) -> bytes:
        left = max(0, self._size - self._at)
        wanted = left if amount is None or amount < 0 else min(amount, left)
        parts: list[bytes] = []
        with local_errors():
            # Libraries look for the size by seeking, and others may share the file.
            self._source.seek(self._start + self._at)
            missing = wanted
            while missing:
                part = self._source.read(missing)
                if not part:
                    raise source_too_short()
                parts.append(part)
                missing -= len(part)
        self._at += wanted
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, origin + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        """s3transfer closes what it was given; the caller's file stays open."""
