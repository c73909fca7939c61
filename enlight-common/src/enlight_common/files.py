"""Files that are there whole or not at all, whatever is killed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from enlight_common.errors import StorageFull

_CHUNK = 1024 * 1024


@contextlib.contextmanager
def disk_full_as_storage_full() -> Iterator[None]:
    """Raise StorageFull for the OSErrors that a full disk or quota gives."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("there is no room left on the disk") from error
        raise


def write_atomically(path: Path, data: bytes | str, *, sync: bool = True) -> None:
    """Write `data` to `path` so that a reader sees the old content or the new, never a part.

    The temporary file lies beside `path` (a rename does not cross file systems) and is removed on failure.
    With `sync` the bytes and the name are on the disk when this returns. Text is written as UTF-8.
    Raises StorageFull when the disk is full, OSError for the rest.
    """
    raw = data.encode("utf-8") if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with disk_full_as_storage_full():
            with temporary.open("xb") as file:
                file.write(raw)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        fsync_folder(path.parent)


def write_json(path: Path, obj: Any, *, sync: bool = True) -> None:
    """Write `obj` as indented JSON with sorted keys; NaN and Infinity are refused with ValueError."""
    text = json.dumps(obj, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_atomically(path, text + "\n", sync=sync)


def read_json(path: Path) -> Any:
    """The JSON value in `path`. Raises FileNotFoundError, or ValueError when it is no JSON in UTF-8."""
    return json.loads(path.read_text(encoding="utf-8"))


def fsync_folder(path: Path) -> None:
    """Put the names in the folder `path` on the disk: a rename survives a power cut only after this."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file as 64 hexadecimal digits, read a MiB at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def bytes_under(folder: Path) -> int:
    """Bytes that what is under `folder` takes on the disk; what vanishes meanwhile counts as nothing."""
    total = 0
    for name, folders, files in os.walk(folder):
        for path in (*folders, *files):
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(name, path)).st_blocks * 512
    return total


def free_bytes(path: Path) -> int:
    """Bytes that can still be written under `path`, or under its nearest existing parent."""
    folder = path.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
