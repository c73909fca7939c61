"""Advisory locks on files (flock), which end with the process that holds them, however it ends.

A lock file may be removed by whoever holds it: a lock that was won on a file without a name is not counted.
Network file systems exist on which every flock succeeds. What is built on these locks must then still be
right, if slower; see where they are used.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path
from types import TracebackType

from enlight_common.errors import TimedOut

_POLL_S = 0.02


class FileLock:
    """A lock that is held. It ends with ``release``, the context, or the process."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def release(self) -> None:
        """Let it go; harmless when it was."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def is_of(self, path: Path) -> bool:
        """Whether *path* is still the name of the locked file."""
        return _names(path, self.descriptor)

    @property
    def inode(self) -> int:
        """The locked file's number, which tells it from another that gets its name."""
        return os.fstat(self.descriptor).st_ino

    def __enter__(self) -> FileLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def try_lock(path: Path, *, shared: bool = False, create: bool = True) -> FileLock | None:
    """The lock on the file *path*, or None where another holds it.

    Raises OSError; FileNotFoundError among others when the file is not there and *create* is off, or its
    folder is not there.
    """
    while True:
        descriptor = _open(path, create)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            if _names(path, descriptor):
                return FileLock(descriptor)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        # Removed or replaced between the two calls.
        os.close(descriptor)


def _open(path: Path, create: bool) -> int:
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        # To be alone, NFS wants the file to be open for writing.
        return os.open(path, flags | os.O_RDWR | (os.O_CREAT if create else 0), 0o644)
    except OSError as error:
        # Another user's file, or a file system that cannot be written, can still be locked.
        if create or error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return os.open(path, flags | os.O_RDONLY)


def lock(path: Path, *, shared: bool = False, timeout_s: float) -> FileLock:
    """Wait for the lock on *path*. Raises TimedOut after *timeout_s* seconds, OSError."""
    deadline = time.monotonic() + timeout_s
    while (held := try_lock(path, shared=shared)) is None:
        if time.monotonic() >= deadline:
            raise TimedOut("another process held a lock for too long")
        time.sleep(_POLL_S)
    return held


def _names(path: Path, descriptor: int) -> bool:
    """Whether *path* is still the name of the open file."""
    try:
        named = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    opened = os.fstat(descriptor)
    return (named.st_ino, named.st_dev) == (opened.st_ino, opened.st_dev)
