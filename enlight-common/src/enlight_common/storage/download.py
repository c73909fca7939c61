"""Downloads by ranges: sizes and checksums verified, cut connections continued, large objects in parallel.

One engine for all stores behind a network. A store says what an object is (`describe`) and gets one range of
it once (`fetch`); everything about trying again is here.
"""

from __future__ import annotations

import errno
import io
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from enlight_common.errors import EnlightError, StoreCorrupt, StoreUnavailable
from enlight_common.storage.attempts import pause, retrying
from enlight_common.storage.copying import descriptor_of, local_errors, write_all
from enlight_common.storage.interface import StorageLimits

_CHUNK = 1024 * 1024
_CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV, errno.ESPIPE, errno.ENOSYS)


class Digest(Protocol):
    """A checksum being computed, as in hashlib."""

    def update(self, chunk: bytes) -> object: ...

    def digest(self) -> bytes: ...


@dataclass(frozen=True)
class Remote:
    """An object as it is now. `version` is what its next state will not have: a generation, an entity tag.

    `checksum` makes the digest of the whole object that `expected` is the value of.
    """

    size: int
    version: str = ""
    checksum: Callable[[], Digest] | None = None
    expected: bytes = b""


class Changed(Exception):
    """The object is no longer the one that was described: its parts would not fit together."""


class Sink:
    """Takes the bytes of one range, however many attempts they come in. `done` is the offset of the next."""

    def __init__(
        self, write_at: Callable[[int, bytes], None], start: int, end: int, limits: StorageLimits
    ) -> None:
        self.done = start
        self.end = end
        self._start = start
        self._write_at = write_at
        self._limits = limits
        self._began = time.monotonic()

    def write(self, chunk: bytes) -> int:
        """Raises StoreUnavailable for more bytes than the range has: the store mixed something up; and for
        bytes that come too slowly, all attempts together.
        """
        if self.done + len(chunk) > self.end:
            raise StoreUnavailable("the object store sent more bytes than it was asked for")
        self._write_at(self.done, chunk)
        self.done += len(chunk)
        beyond = time.monotonic() - self._began - self._limits.read_s
        if self.done - self._start < beyond * self._limits.least_bytes_per_s and self.done < self.end:
            raise StoreUnavailable("the object store sends its bytes too slowly")
        return len(chunk)


Describe = Callable[[], Remote]
# (the object, where the range's bytes go): bytes from sink.done up to sink.end, in one request.
Fetch = Callable[[Remote, Sink], None]


def download(
    target: BinaryIO, describe: Describe, fetch: Fetch, limits: StorageLimits, *, size: int | None = None
) -> int:
    """Write the object to `target`, from its beginning, and return how many bytes it has.

    Starts over when the object changes meanwhile or its checksum is wrong. `describe` is expected to try
    again by itself, `fetch` not to. Raises what they raise; StoreCorrupt for another size than `size` or a
    checksum that stays wrong; StoreUnavailable when a range does not come whole; StorageFull.
    """
    for attempt in range(1, limits.attempts + 1):
        remote = describe()
        if size is not None and remote.size != size:
            raise StoreCorrupt(f"the object has {remote.size} bytes instead of {size}")
        if attempt > 1:
            with local_errors():
                target.seek(0)
                target.truncate()
        try:
            _fill(target, remote, fetch, limits)
            failure: EnlightError | None = _wrong_checksum(target, remote)
        except Changed:
            failure = StoreUnavailable("the object was replaced while it was read, again and again")
        if failure is None:
            return remote.size
        if attempt == limits.attempts:
            raise failure
        pause(limits, attempt)
    raise AssertionError("attempts must be at least 1")


def read(describe: Describe, fetch: Fetch, limits: StorageLimits, max_bytes: int) -> bytes:
    """As `download`, a small object into memory. Raises StoreCorrupt for more than `max_bytes`."""

    def describe_small() -> Remote:
        remote = describe()
        if remote.size > max_bytes:
            raise StoreCorrupt(f"the object has more than {max_bytes} bytes")
        return remote

    found = io.BytesIO()
    download(found, describe_small, fetch, limits)
    return found.getvalue()


def _fill(target: BinaryIO, remote: Remote, fetch: Fetch, limits: StorageLimits) -> None:
    descriptor = descriptor_of(target)
    if descriptor is not None:
        _reserve(descriptor, remote.size)
    if descriptor is not None and remote.size >= limits.parallel_from_bytes:
        _fill_in_parallel(descriptor, remote, fetch, limits)
    elif remote.size:

        def write_next(_: int, chunk: bytes) -> None:
            with local_errors():
                write_all(target, chunk)

        _fill_range(Sink(write_next, 0, remote.size, limits), remote, fetch, limits)
    with local_errors():
        target.flush()
        target.seek(remote.size)


def _reserve(descriptor: int, size: int) -> None:
    """Take the room on the disk first, so that a full one is known before and not after the download."""
    if size < _CHUNK:
        return
    try:
        with local_errors():
            os.posix_fallocate(descriptor, 0, size)
    except EnlightError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in _CANNOT_RESERVE:
            raise


def _fill_range(sink: Sink, remote: Remote, fetch: Fetch, limits: StorageLimits) -> None:
    def go_on() -> None:
        if sink.done < sink.end:  # what failed last may have been the end of a whole answer
            fetch(remote, sink)
        if sink.done != sink.end:
            raise StoreUnavailable("the object store sent fewer bytes than the object has")

    retrying(limits, go_on)


def _fill_in_parallel(descriptor: int, remote: Remote, fetch: Fetch, limits: StorageLimits) -> None:
    stopped = threading.Event()

    def write_at(offset: int, chunk: bytes) -> None:
        if stopped.is_set():
            raise Changed  # another part failed: nobody waits for this one
        rest = memoryview(chunk)
        with local_errors():
            while rest:
                written = os.pwrite(descriptor, rest, offset)
                rest, offset = rest[written:], offset + written

    def fill_part(start: int) -> None:
        end = min(start + limits.part_bytes, remote.size)
        try:
            if not stopped.is_set():
                _fill_range(Sink(write_at, start, end, limits), remote, fetch, limits)
        except BaseException:
            stopped.set()
            raise

    with ThreadPoolExecutor(limits.parallel, thread_name_prefix="download") as threads:
        parts = [threads.submit(fill_part, start) for start in range(0, remote.size, limits.part_bytes)]
    errors = [error for part in parts if (error := part.exception()) is not None]
    # The first to fail made the others stop as if the object had changed.
    for error in sorted(errors, key=lambda error: isinstance(error, Changed)):
        raise error


def _wrong_checksum(target: BinaryIO, remote: Remote) -> StoreCorrupt | None:
    """What is wrong with the bytes that are now in `target`. They are read back out of the page cache, as
    parallel parts arrive in no order; `target` stands at its end afterwards.
    """
    if remote.checksum is None:
        return None
    digest = remote.checksum()
    with local_errors():
        target.seek(0)
        while chunk := target.read(_CHUNK):
            digest.update(chunk)
    if digest.digest() == remote.expected:
        return None
    return StoreCorrupt("the object's bytes do not have the checksum that the store promised")
