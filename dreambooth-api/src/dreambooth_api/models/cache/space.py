"""Who gets the room: what the cache's folder takes of the disk, and what goes when more is wanted."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from enlight_common.errors import StorageFull, StoreUnavailable
from enlight_common.files import (
    bytes_under,
    disk_full_as_storage_full,
    free_bytes,
    fsync_folder,
    write_atomically,
)
from enlight_common.locks import FileLock, lock, try_lock

from dreambooth_api.models.artifact import Manifest, ModelKey
from dreambooth_api.models.cache.entry import DOOMED, LOCK, PINNED

_log = logging.getLogger(__name__)

RESERVED = ".reserved"
_BOUND = "bound"
_BLOCK = 4096  # a file's last block is counted whole, and so is every folder
#: Of an entry beside its files: itself, `.reserved`, and two folders above it.
_BLOCKS_BESIDE = 4
_RECORD_BYTES_PER_FILE = 300
#: Below the bound, for what the folders of names themselves may grow.
_MARGIN = 16 * _BLOCK
_KEPT_DAMAGED = 3
_BOOKKEEPING_S = 60.0
#: What a disk must have left beside the models, for the folders' own growth.
_SLACK_BYTES = 1_000_000
#: Where locks say nothing, what was used or written within these times is taken to be in use.
_UNLOCKED_USE_S, _UNLOCKED_DOWNLOAD_S = 600.0, 3600.0


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
        self._locks_hold = _locks_hold(self.locks)
        if not self._locks_hold:
            _log.warning("locks have no effect in the model cache's folder: models may be fetched twice")

    def make_folders(self) -> None:
        """Make the cache's own folders: at the start, and when somebody emptied the cache with rm -r."""
        for folder in (self.entries, self.incoming, self.trash, self.damaged, self.locks):
            folder.mkdir(parents=True, exist_ok=True)

    def note_bound(self) -> None:
        """Leave the bound for who tends the cache by hand. See `noted_bound`."""
        write_atomically(self.root / _BOUND, str(self.max_bytes))

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

    def folder_of(self, key: ModelKey) -> Path:
        """Where the entry is or would be."""
        return self.entries / key.tenant / key.model_id / key.version

    def used_bytes(self) -> int:
        """What the folder takes of the disk, as `du` counts, with all of what is still being fetched."""
        return self._used(self.models())

    def _used(self, models: list[CachedModel]) -> int:
        known = sum(entry.bytes for entry in models)
        tenants = _folders(self.entries)
        names = [model for tenant in tenants for model in _folders(tenant)]
        above = sum(map(_own_bytes, (self.root, self.root / _BOUND, self.entries, *tenants, *names)))
        rest = sum(map(_tree_bytes, (self.trash, self.damaged, self.locks)))
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
        try:
            identity = str(folder), os.stat(folder / LOCK).st_ino
        except FileNotFoundError:
            return _tree_bytes(folder)  # no entry of ours, but it takes its room
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

    # -- what comes

    def stage(
        self, manifest: Manifest, manifest_bytes: int, heir: Path | None = None
    ) -> tuple[Path, FileLock]:
        """A folder under `incoming` for the model, with its own folders, and room for it made and promised.
        Its lock, a shared one, tells others that it is alive, and stays with it when it becomes an entry;
        `heir` is the lock of a damaged entry that it replaces, which somebody may hold.

        Raises ModelTooLarge, StorageFull: what is there is in use, or the disk is full of other things.
        """
        need = _need_of(manifest, manifest_bytes)
        if need > self.max_bytes - _MARGIN:
            raise ModelTooLarge(
                f"the model takes {need} bytes and the cache may hold {self.max_bytes} (CACHE_MAX_GB)"
            )
        staging = self.incoming / uuid.uuid4().hex
        with disk_full_as_storage_full(), self.alone():
            self._make_room(need)
            try:
                staging.mkdir()
                if heir is not None and heir.exists():
                    heir.rename(staging / LOCK)
                held = try_lock(staging / LOCK, shared=True)
                assert held is not None
            except BaseException:
                self.discard(staging)
                raise
            try:
                (staging / RESERVED).write_text(str(need))
                for file in manifest.files:
                    (staging / file.path).parent.mkdir(parents=True, exist_ok=True)
            except BaseException:
                held.release()
                self.discard(staging)
                raise
        return staging, held

    def admit(self, staging: Path, held: FileLock, key: ModelKey) -> bool:
        """Make what was staged an entry; False, and the staged one gone, where there is one already.

        Raises StoreUnavailable when somebody removed the staged one.
        """
        target = self.folder_of(key)
        with self.alone():
            if not held.is_of(staging / LOCK):
                raise StoreUnavailable("the model cache's folder was removed during a download")
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

    # -- what goes

    def discard(self, folder: Path) -> None:
        """Remove a folder of the cache: its name first, then its files."""
        doomed = self.trash / uuid.uuid4().hex
        with contextlib.suppress(FileNotFoundError):
            folder.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    def set_aside(self, folder: Path, heir: Path) -> None:
        """Take a damaged entry out of use, and keep the newest few to be looked at. Its lock goes to `heir`,
        so that who holds the entry will hold the one that replaces it.
        """
        with self.alone(), contextlib.suppress(FileNotFoundError):
            heir.unlink(missing_ok=True)
            (folder / LOCK).rename(heir)
            folder.rename(self.damaged / f"{time.time_ns()}-{uuid.uuid4().hex[:8]}")
        for old in sorted(_folders(self.damaged))[:-_KEPT_DAMAGED]:
            self.discard(old)

    def evict(self, folder: Path) -> bool:
        """Remove an entry if nobody has it open."""
        held = self._take(folder)
        if held is None:
            return False
        with held:
            self.discard(folder)
        _remove_empty(folder)
        return True

    def _take(self, folder: Path) -> FileLock | None:
        """The entry's lock for oneself alone, if nobody has it open."""
        try:
            held = try_lock(folder / LOCK, create=False)
        except OSError:  # gone, or another user's
            return None
        if held is not None and not self._locks_hold and _age(folder) < _UNLOCKED_USE_S:
            held.release()
            return None
        return held

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

    def clear_left(self) -> None:
        """Remove what killed processes left. To be called alone."""
        for folder in _folders(self.trash):
            shutil.rmtree(folder, ignore_errors=True)
        for staging in _folders(self.incoming):
            if not self._is_alive(staging):
                self.discard(staging)

    def _is_alive(self, staging: Path) -> bool:
        if not self._locks_hold:
            return _age(staging) < _UNLOCKED_DOWNLOAD_S
        try:
            held = try_lock(staging / LOCK, create=False)
        except OSError:
            return False  # killed between making the folder and locking it, which is done alone
        if held is None:
            return True
        held.release()
        return False

    def _make_room(self, need: int) -> None:
        models = self.models()
        short, reason = self._shortage(models, need)
        if short <= 0:
            return
        self.clear_left()
        while (left := sorted(_folders(self.damaged))) and self._shortage(models, need)[0] > 0:
            self.discard(left[0])
        short, reason = self._shortage(models, need)
        with contextlib.ExitStack() as stack:
            # All that is needed first, and nothing if that is not enough: a request that cannot be
            # satisfied must not cost the others their models.
            leaving: list[CachedModel] = []
            for entry in sorted(models, key=lambda entry: not entry.doomed):
                if short <= 0:
                    break
                if (entry.doomed or not entry.pinned) and (held := self._take(entry.folder)) is not None:
                    stack.enter_context(held)
                    leaving.append(entry)
                    short -= entry.bytes
            if short > 0:
                raise StorageFull(reason)
            for entry in leaving:
                self.discard(entry.folder)
                _remove_empty(entry.folder)
        self.evictions += len(leaving)

    def _shortage(self, models: list[CachedModel], need: int) -> tuple[int, str]:
        """How many bytes have to go before `need` more fit, and what there is too little of."""
        over = self._used(models) + need - (self.max_bytes - (_MARGIN if need else 0))
        lacking = need + _SLACK_BYTES - (free_bytes(self.root) - self._outstanding()) if need else 0
        if lacking > over:
            return lacking, "there is no room left on the model cache's disk"
        return over, "the model cache is full of models that are in use or pinned (CACHE_MAX_GB)"


def noted_bound(root: Path) -> int | None:
    """The bound that the services which use the cache keep it to, in bytes, if one of them was started."""
    try:
        return int((root / _BOUND).read_text())
    except (OSError, ValueError):
        return None


def _need_of(manifest: Manifest, manifest_bytes: int) -> int:
    """Bytes of the disk that the model takes at most."""
    sizes = [file.size for file in manifest.files]
    sizes += [manifest_bytes, _RECORD_BYTES_PER_FILE * (len(sizes) + 2)]
    folders = {parent for file in manifest.files for parent in PurePosixPath(file.path).parents}
    return (sum(-(-size // _BLOCK) for size in sizes) + len(folders) + _BLOCKS_BESIDE) * _BLOCK


def _rename_into(staging: Path, target: Path) -> None:
    """Rename, making the folders above; again when an eviction removed them just then."""
    for attempt in range(5):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            staging.rename(target)
            fsync_folder(target.parent)
            return
        except FileNotFoundError:
            if attempt == 4 or not staging.exists():
                raise


def _remove_empty(folder: Path) -> None:
    """Remove the model's and the tenant's folder above an entry that is gone, if nothing else is in them."""
    for above in (folder.parent, folder.parent.parent):
        with contextlib.suppress(OSError):
            above.rmdir()


def _locks_hold(folder: Path) -> bool:
    """Whether a lock keeps anybody out here."""
    path = folder / f"probe-{uuid.uuid4().hex}"
    try:
        first = try_lock(path)
        assert first is not None
        with first:
            second = try_lock(path)
            if second is not None:
                second.release()
            return second is None
    except OSError:
        return True  # a full or read-only disk: nothing is written or evicted here
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def _age(folder: Path) -> float:
    """Seconds since the folder or a file in it changed; 0 for one that is gone."""
    newest = 0.0
    for path in (folder, *_files(folder)):
        with contextlib.suppress(OSError):
            newest = max(newest, path.stat().st_mtime)
    return time.time() - newest if newest else 0.0


def _files(folder: Path) -> Iterator[Path]:
    for name, _, files in os.walk(folder):
        yield from (Path(name, file) for file in files)


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
    except OSError:
        return 0


def _tree_bytes(folder: Path) -> int:
    return _own_bytes(folder) + bytes_under(folder)
