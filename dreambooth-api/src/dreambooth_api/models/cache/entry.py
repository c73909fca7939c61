"""One model in the cache's folder: its marks, and whether its files are what they should be."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from pathlib import Path

from enlight_common.errors import StorageFull
from enlight_common.files import sha256_of, write_atomically
from enlight_common.locks import FileLock, try_lock
from pydantic import BaseModel, ConfigDict, ValidationError

from dreambooth_api.models.artifact import MANIFEST, Manifest

LOCK = ".lock"
RECORD = ".entry.json"
PINNED = ".pinned"
DOOMED = ".doomed"


class FileState(BaseModel):
    """How a file looks from outside. What writes to a file or replaces it changes this, unless it takes the
    trouble to put the time back: that is found after a restart and when the model is loaded.
    """

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
    _write_record(folder, manifest_sha256, {name: _state_of(folder / name) for name in _names(manifest)})


def hold(folder: Path) -> FileLock | None:
    """Keep the entry from being evicted; None where there is none, or it is about to go."""
    try:
        held = try_lock(folder / LOCK, shared=True, create=False)
    except OSError:
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
    """The manifest, if every file has its checksum; the files' looks are noted anew then.

    Reads every byte. Raises Damaged; OSError where that cannot be told, as without file descriptors left.
    """
    try:
        record = Record.model_validate_json((folder / RECORD).read_bytes())
        raw = (folder / MANIFEST).read_bytes()
        manifest = Manifest.model_validate_json(raw)
        # Before the bytes: what is written while they are read must show the next time.
        looks = {name: _state_of(folder / name) for name in _names(manifest)}
        if hashlib.sha256(raw).hexdigest() != record.manifest_sha256:
            raise Damaged("the manifest is another")
        for file in manifest.files:
            path = folder / file.path
            if path.is_symlink() or looks[file.path].size != file.size or sha256_of(path) != file.sha256:
                raise Damaged(f"{file.path} is not what was fetched")
    except ValidationError as error:
        raise Damaged("its manifest or record cannot be read") from error
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise Damaged("a file is missing") from error
    if looks != record.files:
        with contextlib.suppress(OSError, StorageFull):  # then it is hashed again next time
            _write_record(folder, record.manifest_sha256, looks)
    return manifest


def _names(manifest: Manifest) -> list[str]:
    return [MANIFEST, *(file.path for file in manifest.files)]


def _write_record(folder: Path, manifest_sha256: str, looks: dict[str, FileState]) -> None:
    record = Record(manifest_sha256=manifest_sha256, files=looks)
    write_atomically(folder / RECORD, record.model_dump_json())


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
