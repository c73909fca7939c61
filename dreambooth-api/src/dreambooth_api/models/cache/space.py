"""Who gets the room in the cache's folder, and what goes when more is wanted."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from enlight_common.errors import StorageFull, StoreUnavailable
from enlight_common.files import disk_full_as_storage_full, free_bytes, fsync_folder, write_atomically
from enlight_common.locks import FileLock, lock, try_lock

from dreambooth_api.models.artifact import Manifest, ModelKey
from dreambooth_api.models.cache.entry import LOCK
from dreambooth_api.models.cache.inventory import (
    BOUND,
    RESERVED,
    CachedModel,
    Inventory,
    folders_in,
)

_log = logging.getLogger(__name__)

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


class Space:
    """The bound of `max_bytes` over everything in the cache's folder, and what may change names there."""

    def __init__(self, inventory: Inventory, max_bytes: int) -> None:
        self.inventory, self.max_bytes = inventory, max_bytes
        self.evictions = 0
        self._locks_hold = _locks_hold(inventory.locks)
        if not self._locks_hold:
            _log.warning("locks have no effect in the model cache's folder: models may be fetched twice")

    def note_bound(self) -> None:
        """Leave the bound for who tends the cache by hand. See `noted_bound`."""
        write_atomically(self.inventory.root / BOUND, str(self.max_bytes))

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
        staging = self.inventory.incoming / uuid.uuid4().hex
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
        target = self.inventory.folder_of(key)
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
        doomed = self.inventory.trash / uuid.uuid4().hex
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
            folder.rename(self.inventory.damaged / f"{time.time_ns()}-{uuid.uuid4().hex[:8]}")
        for old in sorted(folders_in(self.inventory.damaged))[:-_KEPT_DAMAGED]:
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
        self.inventory.make_folders()
        with lock(self.inventory.locks / "space", timeout_s=_BOOKKEEPING_S):
            yield

    def make_room(self, need: int = 0) -> None:
        """Evict until `need` more bytes fit. Raises StorageFull."""
        with self.alone():
            self._make_room(need)

    def clear_left(self) -> None:
        """Remove what killed processes left. To be called alone."""
        for folder in folders_in(self.inventory.trash):
            shutil.rmtree(folder, ignore_errors=True)
        for staging in folders_in(self.inventory.incoming):
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
        models = self.inventory.models()
        short, reason = self._shortage(models, need)
        if short <= 0:
            return
        self.clear_left()
        while (left := sorted(folders_in(self.inventory.damaged))) and self._shortage(models, need)[0] > 0:
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
        over = self.inventory.bytes_of(models) + need - (self.max_bytes - (_MARGIN if need else 0))
        lacking = (
            need + _SLACK_BYTES - (free_bytes(self.inventory.root) - self.inventory.outstanding())
            if need
            else 0
        )
        if lacking > over:
            return lacking, "there is no room left on the model cache's disk"
        return over, "the model cache is full of models that are in use or pinned (CACHE_MAX_GB)"


def noted_bound(root: Path) -> int | None:
    """The bound that the services which use the cache keep it to, in bytes, if one of them was started."""
    try:
        return int((root / BOUND).read_text())
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
