"""What is put to a signed URL here: only what was announced, as long as it was announced, and once."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import Any, BinaryIO, cast

from enlight_common.errors import Conflict, InvalidField, NoSuchObject
from enlight_common.storage import ObjectStore

from main_api.ids import new_id
from main_api.records.objects import STORED, Objects

_CHUNK = 1024 * 1024


class Receiver:
    """Puts into the store what a document of `objects` waits for, which says `stored` from then on.

    So a picture that was checked cannot be exchanged, and one that was deleted does not come back. Of
    several that put at the same moment the last one to begin is taken.
    """

    def __init__(self, store: ObjectStore, objects: Objects) -> None:
        self._store = store
        self._objects = objects

    def put(self, key: str, size: int, source: BinaryIO) -> None:
        """Raises NoSuchObject, InvalidField, Conflict, and what the store raises.

        The same bytes again change nothing: the answer to the first ones may have been lost.
        """
        known = self._objects.get(key)
        if known is None:
            raise NoSuchObject("nothing is expected under this key")
        if known["size"] != size:
            raise InvalidField("Content-Length", "must be the size that was announced")
        if known["state"] == STORED and self._store.exists(key):
            if _digest(source) != known["sha256"]:
                raise Conflict("another object was put there already")
            return
        # Stored and not there: the process that put it died on the way. The same bytes may still come.
        state = known["state"]
        attempt = new_id()
        if not self._objects.note(key, {"attempt": attempt}, where={"state": state}):
            raise Conflict("another object was put there already")
        mine = {"attempt": attempt}

        def seal(digest: str) -> None:
            if known["sha256"] not in (None, digest):
                raise InvalidField("body", "is not what was announced")
            stored = {"state": STORED, "sha256": digest}
            if not self._objects.note(key, stored, where={**mine, "state": state}):
                raise Conflict("another object is put there at this moment")

        try:
            self._store.put(key, cast(BinaryIO, io.BufferedReader(_Sealed(source, size, seal), _CHUNK)), size)
        except BaseException:
            self._objects.note(key, {"state": state, "sha256": known["sha256"]}, where=mine)
            raise
        if self._objects.get(key) is None:  # deleted meanwhile
            self._store.delete(key)
            raise NoSuchObject("nothing is expected under this key")


class _Sealed(io.RawIOBase):
    """`size` bytes of a source; its digest is told before the last of them are given out."""

    def __init__(self, source: BinaryIO, size: int, seal: Callable[[str], None]) -> None:
        self._source = source
        self._missing = size
        self._seal = seal
        self._digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._missing:
            return 0
        chunk = self._source.read(min(len(buffer), self._missing))
        self._digest.update(chunk)
        self._missing -= len(chunk)
        if not self._missing:
            self._seal(self._digest.hexdigest())
        buffer[: len(chunk)] = chunk
        return len(chunk)


def _digest(source: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()
