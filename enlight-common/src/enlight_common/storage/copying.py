"""Bytes from one open file to another, as fast as the system can, and what goes wrong on the local side."""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Iterator
from typing import BinaryIO, cast

from enlight_common.errors import InternalError, InvalidField, StorageFull, StoreCorrupt

_CHUNK = 1024 * 1024
# One call's worth: the kernel stops at 2 GiB, and a signal is seen only between calls.
_KERNEL_CHUNK = 256 * 1024 * 1024
# The kernel will not copy between these two files itself: two file systems, a device, an old kernel.
_CANNOT = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM, errno.ETXTBSY)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def local_errors() -> Iterator[None]:
    """OSErrors of the caller's own file: StorageFull when the disk is full, else InternalError."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise StorageFull("there is no room left on the disk") from error
        raise InternalError("a local file could not be read or written") from error


def descriptor_of(file: BinaryIO) -> int | None:
    """The descriptor whose bytes are exactly those of `file`, or None.

    `fileno` alone does not tell: that of a gzip file is the compressed one's.
    """
    opened: object = getattr(file, "file", file)  # NamedTemporaryFile wraps one
    raw = (
        opened.raw
        if isinstance(opened, (io.BufferedReader, io.BufferedRandom, io.BufferedWriter))
        else opened
    )
    return raw.fileno() if isinstance(raw, io.FileIO) else None


def check_source(source: BinaryIO, size: int) -> int:
    """Where `source` stands. Raises StoreCorrupt when fewer than `size` bytes follow."""
    if size < 0:
        raise InvalidField("size", "must be at least 0")
    with local_errors():
        start = source.tell()
        available = source.seek(0, os.SEEK_END) - start
        source.seek(start)
    if available < size:
        raise source_too_short()
    return start


def source_too_short() -> StoreCorrupt:
    """What a put ends with when its source has fewer bytes than it was said to have."""
    return StoreCorrupt("the source ended before its size; nothing was stored")


def copy(source: BinaryIO, target: BinaryIO, size: int) -> int:
    """Copy up to `size` bytes from where `source` stands to where `target` does; return how many there were.

    Both stand behind the copied bytes afterwards. OSErrors of either are raised as they are.
    """
    ends = descriptor_of(source), descriptor_of(target)
    if ends[0] is None or ends[1] is None or not (source.seekable() and target.seekable()):
        return _copy_by_hand(source, target, size)
    if source.writable():
        source.flush()
    target.flush()
    begin, into = source.tell(), target.tell()
    copied = _copy_in_kernel(ends[0], begin, ends[1], into, size)
    source.seek(begin + copied)
    target.seek(into + copied)
    return copied + _copy_by_hand(source, target, size - copied)


def _copy_in_kernel(source: int, begin: int, target: int, into: int, size: int) -> int:
    """As many of the bytes as the kernel will copy itself; it may be none."""

    def by_range(done: int, wanted: int) -> int:
        return os.copy_file_range(source, target, wanted, begin + done, into + done)

    def by_sendfile(done: int, wanted: int) -> int:
        os.lseek(target, into + done, os.SEEK_SET)
        return os.sendfile(target, source, begin + done, wanted)

    copied = 0
    # The first shares blocks where the file system can, but most kernels refuse it across file systems.
    for move in (by_range, by_sendfile):
        try:
            while copied < size and (moved := move(copied, min(size - copied, _KERNEL_CHUNK))):
                copied += moved
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
    return copied


def _copy_by_hand(source: BinaryIO, target: BinaryIO, size: int) -> int:
    copied = 0
    while copied < size and (chunk := source.read(min(_CHUNK, size - copied))):
        write_all(target, chunk)
        copied += len(chunk)
    target.flush()
    return copied


def write_all(target: BinaryIO, chunk: bytes | memoryview) -> None:
    """Write all of `chunk`: an unbuffered file may take only a part of it at once."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[cast("int | None", target.write(rest)) or 0 :]
