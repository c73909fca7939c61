"""One model in the cache's folder: its marks, and whether its files are what they should be."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from pathlib import Path

from enlight_common.files import sha256_of, write_atomically
from enlight_common.locks import FileLock, try_lock
from pydantic import BaseModel, ConfigDict, ValidationError

from dreambooth_api.models.artifact import MANIFEST, Manifest

LOCK = ".lock"
RECORD = ".entry.json"
PINNED = ".pinned"
DOOMED = ".doomed"


class FileState(BaseModel):
    """How a file looks from outside: whatever writes to it or replaces it changes one of these."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    size: int
    inode: int
    mtime_ns: int


class Record(BaseModel):
    """`.entry.json`: the files' looks, manifest included, when their checksums were right."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: int = 1
    manifest_sha256: str
    files: dict[str, FileState]


class Damaged(Exception):
    """The files are not those of the manifest."""


def write_record(folder: Path, manifest: Manifest, manifest_sha256: str) -> None:
    """Note how the files look now. Raises OSError, StorageFull."""
    names = [MANIFEST, *(file.path for file in manifest.files)]
    record = Record(manifest_sha256=manifest_sha256, files={name: _state_of(folder / name) for name in names})
    write_atomically(folder / RECORD, record.model_dump_json())


def hold(folder: Path) -> FileLock | None:
    """Keep the entry from being evicted; None where there is none, or it is about to go."""
    try:
        held = try_lock(folder / LOCK, shared=True, create=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if held is not None and (folder / DOOMED).exists():
        held.release()
        return None
    return held


def check_looks(folder: Path) -> Manifest:
    """The manifest, if no file was touched since the checksums were last right. Raises Damaged.

    To be called with the entry held. Costs a stat for each file.
    """
    try:
        record = _read_record(str(folder), _stamp(folder / RECORD))
        if any(_state_of(folder / name) != state for name, state in record.files.items()):
            raise Damaged("a file was touched")
        return _read_manifest(str(folder), _stamp(folder / MANIFEST))
    except (OSError, ValidationError) as error:
        raise Damaged("an entry cannot be read") from error


def check_content(folder: Path) -> Manifest:
    """The manifest, if every file has its checksum; the files' looks are noted anew then. Raises Damaged.

    Reads every byte.
    """
    try:
        record = Record.model_validate_json((folder / RECORD).read_bytes())
        raw = (folder / MANIFEST).read_bytes()
        manifest = Manifest.model_validate_json(raw)
        if hashlib.sha256(raw).hexdigest() != record.manifest_sha256:
            raise Damaged("the manifest is another")
        for file in manifest.files:
            path = folder / file.path
            if path.is_symlink() or path.stat().st_size != file.size or sha256_of(path) != file.sha256:
                raise Damaged(f"{file.path} is not what was fetched")
    except (OSError, ValidationError) as error:
        raise Damaged("an entry cannot be read") from error
    with contextlib.suppress(OSError):  # a disk that is full or read-only: then it is hashed again next time
        if any(_state_of(folder / name) != state for name, state in record.files.items()):
            write_record(folder, manifest, record.manifest_sha256)
    return manifest


def identity_of(folder: Path) -> tuple[str, int]:
    """Tells this entry from one fetched again under its name. Raises OSError."""
    return str(folder), os.stat(folder / LOCK).st_ino


def _state_of(path: Path) -> FileState:
    found = os.stat(path, follow_symlinks=False)
    return FileState.model_construct(size=found.st_size, inode=found.st_ino, mtime_ns=found.st_mtime_ns)


def _stamp(path: Path) -> tuple[int, int, int]:
    found = os.stat(path, follow_symlinks=False)
    return found.st_ino, found.st_size, found.st_mtime_ns


# Both are small, and parsing them takes longer than all else in a hit.
@functools.lru_cache(maxsize=4096)
def _read_record(folder: str, _stamp: tuple[int, int, int]) -> Record:
    return Record.model_validate_json((Path(folder) / RECORD).read_bytes())


@functools.lru_cache(maxsize=4096)
def _read_manifest(folder: str, _stamp: tuple[int, int, int]) -> Manifest:
    return Manifest.model_validate_json((Path(folder) / MANIFEST).read_bytes())
