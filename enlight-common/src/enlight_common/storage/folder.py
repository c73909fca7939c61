"""Objects as files in a folder, which several processes and machines may share.

    root/<key>                 an object: whole, because it was renamed to its name
    root/.incoming/<random>    being written; unknown to readers

Folders come with the first object in them and go with the last. A key cannot also be another's folder ("a"
and "a/b"): that is a Conflict here, though clouds allow it. Paths are walked segment by segment from the
root without following links, so nothing that lies in the store leads out of it.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from enlight_common.errors import (
    Conflict,
    EnlightError,
    InternalError,
    NoSuchObject,
    SigningUnavailable,
    StorageFull,
    StoreCorrupt,
    StoreDenied,
    StoreUnavailable,
)
from enlight_common.files import fsync_folder
from enlight_common.storage.copying import FULL, check_source, copy, source_too_short
from enlight_common.storage.interface import (
    Method,
    ObjectInfo,
    check_expiry,
    check_key,
    check_method,
    check_prefix,
)
from enlight_common.storage.listing import list_folder
from enlight_common.storage.places import MISSING, Place
from enlight_common.storage.signing import UrlSigner

_ABANDONED_AFTER_S = 24 * 3600  # an upload still being written after a day has no process behind it
_RENAME_ATTEMPTS = 100  # each is lost only to a deleter that removes the folder at that very moment
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


class FolderStore:
    """An ObjectStore below `root`, which is made if it is not there. It signs URLs if it has a `signer`.

    A root that goes away later is a volume that was unmounted: every call raises StoreUnavailable then.
    """

    def __init__(self, root: Path, *, signer: UrlSigner | None = None) -> None:
        self.root = root.resolve()
        self._incoming = self.root / ".incoming"
        self._signer = signer
        with _as_store_errors():
            self._incoming.mkdir(parents=True, exist_ok=True)
            self._remove_abandoned()

    def put(self, key: str, source: BinaryIO, size: int) -> None:
        """As in ObjectStore; a `source` that cannot seek will do. Raises Conflict where a folder has this
        name, or a file the name of a folder above.
        """
        check_key(key)
        self._check_there()
        if source.seekable():
            check_source(source, size)
        staged = self._incoming / uuid.uuid4().hex
        try:
            with _as_store_errors():
                with staged.open("xb", buffering=0) as file:
                    if copy(source, file, size) != size:
                        raise source_too_short()
                    os.fsync(file.fileno())
                self._rename_to(staged, key)
        except BaseException:
            with contextlib.suppress(OSError):
                staged.unlink(missing_ok=True)
            raise

    def get(self, key: str, target: BinaryIO, *, size: int | None = None) -> int:
        with self.open(key) as file:
            length = os.fstat(file.fileno()).st_size
            if size is not None and length != size:
                raise StoreCorrupt(f"the object has {length} bytes instead of {size}")
            with _as_store_errors():
                copied = copy(file, target, length)
        if copied != length:
            raise StoreCorrupt("the object's file became shorter while it was read")
        return copied

    def open(self, key: str) -> BinaryIO:
        """The object's file, for reading; it stays whole whatever happens to the key. Raises NoSuchObject."""
        check_key(key)
        self._check_there()
        with _as_store_errors(), Place.of(self.root, key) as place:
            # A pipe that somebody put here would block without O_NONBLOCK.
            descriptor = os.open(
                place.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place.folder
            )
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise NoSuchObject("there is no object under this key")
            return os.fdopen(descriptor, "rb")

    def read(self, key: str, max_bytes: int) -> bytes:
        with self.open(key) as file, _as_store_errors():
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise StoreCorrupt(f"the object has more than {max_bytes} bytes")
        return data

    def stat(self, key: str) -> ObjectInfo | None:
        check_key(key)
        self._check_there()
        try:
            with _as_store_errors(), Place.of(self.root, key) as place:
                found = os.stat(place.name, dir_fd=place.folder, follow_symlinks=False)
        except NoSuchObject:
            return None
        return ObjectInfo(key, found.st_size, found.st_mtime) if stat.S_ISREG(found.st_mode) else None

    def exists(self, key: str) -> bool:
        return self.stat(key) is not None

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        check_prefix(after, "after")
        return self._list(prefix, after)

    def _list(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        self._check_there()
        with _as_store_errors():
            yield from list_folder(self.root, prefix, after)

    def delete(self, key: str) -> None:
        check_key(key)
        self._check_there()
        with (
            contextlib.suppress(NoSuchObject),
            _as_store_errors(),
            Place.of(self.root, key) as place,
        ):
            os.unlink(place.name, dir_fd=place.folder)
            os.fsync(place.folder)
            place.remove_empty_folders()

    def signed_url(self, key: str, method: Method, expires_s: int) -> str:
        check_key(key)
        check_method(method)
        check_expiry(expires_s)
        if self._signer is None:
            raise SigningUnavailable("this store was opened without a signer")
        return self._signer.sign(method, key, expires_s)

    def _check_there(self) -> None:
        if not self._incoming.is_dir():
            raise StoreUnavailable("the object store's folder is not there")

    def _rename_to(self, staged: Path, key: str) -> None:
        for _ in range(_RENAME_ATTEMPTS):
            try:
                with Place.made(self.root, key) as place:
                    os.rename(staged, place.name, dst_dir_fd=place.folder)
                return
            except FileNotFoundError:
                continue
            except IsADirectoryError:
                _remove_left_folder(self.root, key)
            except OSError as error:
                if error.errno in MISSING:
                    raise _conflict() from error
                raise
        raise StoreUnavailable("the store's folders are removed as fast as they are made")

    def _remove_abandoned(self) -> None:
        for entry in list(os.scandir(self._incoming)):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED_AFTER_S:
                    if entry.is_dir(follow_symlinks=False):
                        shutil.rmtree(entry.path, ignore_errors=True)
                    else:
                        os.unlink(entry.path)
        fsync_folder(self.root)


def _conflict() -> Conflict:
    return Conflict("a part of this key is another object, or this key is the beginning of others")


def _remove_left_folder(root: Path, key: str) -> None:
    """Remove the empty folder that somebody who was killed left under the name of `key`."""
    with Place.of(root, key) as place:
        try:
            os.rmdir(place.name, dir_fd=place.folder)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _conflict() from error


@contextlib.contextmanager
def _as_store_errors() -> Iterator[None]:
    """The one place where the folder's OSErrors become errors of ours."""
    try:
        yield
    except EnlightError:
        raise
    except OSError as error:
        raise _store_error(error) from error


def _store_error(error: OSError) -> EnlightError:
    if isinstance(error, io.UnsupportedOperation):  # of the caller's file
        return InternalError("a local file could not be read or written")
    if error.errno in FULL:
        return StorageFull("there is no room left on the disk")
    if error.errno in MISSING or error.errno == errno.EISDIR:
        return NoSuchObject("there is no object under this key")
    if error.errno in _REFUSED:
        return StoreDenied("the store's folder does not allow this")
    return StoreUnavailable("the store's folder cannot be read or written")
