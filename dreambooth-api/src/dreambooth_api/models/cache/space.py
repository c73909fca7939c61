"""Who gets the room: what the cache's folder takes of the disk, and what goes when more is wanted."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from enlight_common.errors import StorageFull
from enlight_common.files import bytes_under, free_bytes, fsync_folder
from enlight_common.locks import FileLock, lock, try_lock

from dreambooth_api.models.artifact import Manifest, ModelKey
from dreambooth_api.models.cache.entry import DOOMED, LOCK, PINNED, identity_of

RESERVED = ".reserved"
_BLOCK = 4096  # a file's last block is counted whole, and so is every folder
#: Of an entry beside its files: itself, `.reserved`, `.entry.json`, the manifest, two folders above it.
_BLOCKS_BESIDE = 6
#: Below the bound, for what the folders of names themselves may grow.
_MARGIN = 16 * _BLOCK
_KEPT_DAMAGED = 3
_BOOKKEEPING_S = 60.0
#: What a disk must have left beside the models, for the folders' own growth.
_SLACK_BYTES = 1_000_000


class ModelTooLarge(StorageFull):
    type = "model-too-large"
    title = "The model is larger than the cache"


@dataclass(frozen=True)
class CachedModel:
    """An entry as it is listed. `bytes` is what it takes of the disk; `last_used` in seconds since the
    epoch.
    """

    key: ModelKey
    folder: Path
    bytes: int
    last_used: float
    pinned: bool
    doomed: bool


class Space:
    """The cache's folder, and its bound of `max_bytes` over everything in it."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        self.root, self.max_bytes = root, max_bytes
        self.entries, self.incoming = root / "entries", root / "incoming"
        self.trash, self.damaged, self.locks = root / "trash", root / "damaged", root / "locks"
        self.evictions = 0
        self._sizes: dict[tuple[str, int], int] = {}
        self._sizing = threading.Lock()
        self.make_folders()

    def make_folders(self) -> None:
        """Make the cache's own folders: at the start, and when somebody emptied the cache with rm -r."""
        for folder in (self.entries, self.incoming, self.trash, self.damaged, self.locks):
            folder.mkdir(parents=True, exist_ok=True)

    # -- what there is

    def models(self) -> list[CachedModel]:
        """Every entry, least recently used first. One that goes meanwhile is left out."""
        found = []
        for tenant in _folders(self.entries):
            for model in _folders(tenant):
                for folder in _folders(model):
                    with contextlib.suppress(FileNotFoundError):
                        found.append(self._describe(ModelKey(tenant.name, model.name, folder.name), folder))
        found.sort(key=lambda entry: entry.last_used)
        self._forget_sizes({str(entry.folder) for entry in found})
        return found

    def versions(self, tenant: str, model_id: str) -> list[str]:
        """The versions of a model that are here, newest first."""
        folders = _folders(self.entries / tenant / model_id)
        return sorted((path.name for path in folders if not (path / DOOMED).exists()), reverse=True)

    def used_bytes(self) -> int:
        """What the folder takes of the disk, as `du` counts, with all of what is still being fetched."""
        return self._used(self.models())

    def _used(self, models: list[CachedModel]) -> int:
        known = sum(entry.bytes for entry in models)
        above = sum(
            _own_bytes(path)
            for path in (self.root, self.entries, *self.entries.glob("*"), *self.entries.glob("*/*"))
        )
        rest = sum(_tree_bytes(folder) for folder in (self.trash, self.damaged, self.locks))
        fetched = sum(max(_tree_bytes(path), _reserved(path)) for path in _folders(self.incoming))
        return known + above + rest + _own_bytes(self.incoming) + fetched

    def _outstanding(self) -> int:
        """Bytes promised to downloads that are not on the disk yet."""
        return sum(max(0, _reserved(path) - _tree_bytes(path)) for path in _folders(self.incoming))

    def _describe(self, key: ModelKey, folder: Path) -> CachedModel:
        used = folder.stat().st_mtime
        return CachedModel(
            key,
            folder,
            self._size_of(folder),
            used,
            pinned=(folder / PINNED).exists(),
            doomed=(folder / DOOMED).exists(),
        )

    def _size_of(self, folder: Path) -> int:
        # Entries do not change: each is measured once.
        identity = identity_of(folder)
        with self._sizing:
            known = self._sizes.get(identity)
        if known is None:
            known = _tree_bytes(folder)
            with self._sizing:
                self._sizes[identity] = known
        return known

    def _forget_sizes(self, there: set[str]) -> None:
        with self._sizing:
            for identity in [identity for identity in self._sizes if identity[0] not in there]:
                del self._sizes[identity]

    # -- what changes names

    def stage(self, manifest: Manifest) -> tuple[Path, FileLock]:
        """A folder under `incoming` for the model, with room for it made and promised. Its lock, a shared
        one, tells others that it is alive, and stays with it when it becomes an entry.

        Raises ModelTooLarge, StorageFull: what is there is in use, or the disk is full of other things.
        """
        need = _need_of(manifest)
        if need > self.max_bytes - _MARGIN:
            raise ModelTooLarge(
                f"the model takes {need} bytes and the cache may hold {self.max_bytes} (CACHE_MAX_GB)"
            )
        with self.alone():
            self._make_room(need)
            staging = self.incoming / uuid.uuid4().hex
            staging.mkdir()
            held = try_lock(staging / LOCK, shared=True)
            assert held is not None
            (staging / RESERVED).write_text(str(need))
        return staging, held

    def admit(self, staging: Path, key: ModelKey) -> bool:
        """Make what was staged an entry; False, and the staged one gone, where there is one already."""
        target = self.folder_of(key)
        with self.alone():
            (staging / RESERVED).unlink(missing_ok=True)
            fsync_folder(staging)
            try:
                _rename_into(staging, target)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                self.discard(staging)
                return False
            return True

    def folder_of(self, key: ModelKey) -> Path:
        """Where the entry is or would be."""
        return self.entries / key.tenant / key.model_id / key.version

    def discard(self, folder: Path) -> None:
        """Remove a folder of the cache: its name first, then its files."""
        doomed = self.trash / uuid.uuid4().hex
        with contextlib.suppress(FileNotFoundError):
            folder.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    def set_aside(self, folder: Path) -> None:
        """Take a damaged entry out of use, whoever has it open, and keep the newest few to be looked at."""
        with contextlib.suppress(FileNotFoundError):
            folder.rename(self.damaged / f"{time.time_ns()}-{uuid.uuid4().hex[:8]}")
        for old in sorted(_folders(self.damaged))[:-_KEPT_DAMAGED]:
            self.discard(old)

    def evict(self, folder: Path) -> bool:
        """Remove an entry if nobody has it open."""
        try:
            held = try_lock(folder / LOCK, create=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        if held is None:
            return False
        with held:
            self.discard(folder)
        for above in (folder.parent, folder.parent.parent):
            with contextlib.suppress(OSError):  # another model is in it
                above.rmdir()
        return True

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """While the context lasts no other process makes room or adds an entry."""
        self.make_folders()
        with lock(self.locks / "space", timeout_s=_BOOKKEEPING_S):
            yield

    def make_room(self, need: int = 0) -> None:
        """Evict until `need` more bytes fit. Raises StorageFull."""
        with self.alone():
            self._make_room(need)

    def _make_room(self, need: int) -> None:
        for folder in _folders(self.trash):
            shutil.rmtree(folder, ignore_errors=True)
        damaged = sorted(_folders(self.damaged))
        models = [entry for entry in self.models() if entry.doomed or not entry.pinned]
        models.sort(key=lambda entry: not entry.doomed)
        while (short := self._shortage(need)) is not None:
            if damaged:
                self.discard(damaged.pop(0))
            elif models:
                entry = models.pop(0)
                self.evictions += self.evict(entry.folder)
            else:
                raise StorageFull(short)

    def _shortage(self, need: int) -> str | None:
        if self.used_bytes() + need > self.max_bytes - (_MARGIN if need else 0):
            return "the model cache is full of models that are in use or pinned (CACHE_MAX_GB)"
        if need and free_bytes(self.root) - self._outstanding() < need + _SLACK_BYTES:
            return "there is no room left on the model cache's disk"
        return None


def _need_of(manifest: Manifest) -> int:
    """Bytes of the disk that the model takes at most."""
    files = sum(-(-file.size // _BLOCK) for file in manifest.files)
    folders = {parent for file in manifest.files for parent in PurePosixPath(file.path).parents}
    return (files + len(folders) + _BLOCKS_BESIDE) * _BLOCK


def _rename_into(staging: Path, target: Path) -> None:
    """Rename, making the folders above; again when an eviction removed them just then."""
    for attempt in range(5):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            staging.rename(target)
            fsync_folder(target.parent)
            return
        except FileNotFoundError:
            if attempt == 4 or not staging.exists():
                raise


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _reserved(staging: Path) -> int:
    try:
        return int((staging / RESERVED).read_text())
    except (OSError, ValueError):
        return 0


def _own_bytes(path: Path) -> int:
    try:
        return path.lstat().st_blocks * 512
    except FileNotFoundError:
        return 0


def _tree_bytes(folder: Path) -> int:
    return _own_bytes(folder) + bytes_under(folder)
