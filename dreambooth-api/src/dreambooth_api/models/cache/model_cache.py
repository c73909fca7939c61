"""The cache: open a model, fetching it when it is not here, and be sure of its bytes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from enlight_common.errors import (
    EnlightError,
    StorageFull,
    StoreCorrupt,
    StoreDenied,
    StoreUnavailable,
    TimedOut,
)
from enlight_common.files import disk_full_as_storage_full
from enlight_common.locks import FileLock, lock, try_lock

from dreambooth_api.models.artifact import Artifact, Manifest, ModelKey
from dreambooth_api.models.cache.entry import (
    DOOMED,
    LOCK,
    PINNED,
    Damaged,
    check_content,
    check_looks,
    hold,
)
from dreambooth_api.models.cache.fetching import Source, check_names, download, take
from dreambooth_api.models.cache.inventory import CachedModel, Inventory
from dreambooth_api.models.cache.space import ModelTooLarge, Space
from dreambooth_api.models.catalog import Catalog

_log = logging.getLogger(__name__)

#: For another process's download of the same model: 7 GB at 12 MB/s.
_FETCH_WAIT_S = 600.0
#: What is as true for who waited as for who tried.
_SHARED_FAILURES: dict[str, type[EnlightError]] = {
    kind.type: kind for kind in (StoreUnavailable, StoreCorrupt, StoreDenied, TimedOut)
}
_REMEMBERED = 4096  # entries known to have been hashed by this process


@dataclass
class CacheCounts:
    """What this process did since it started. `fetch_seconds` is the sum over its downloads."""

    hits: int = 0
    misses: int = 0
    damaged: int = 0
    fetched_bytes: int = 0
    fetch_seconds: float = 0.0


class ModelCache:
    """One folder of `max_bytes` over the catalog, shared with any number of processes and threads."""

    def __init__(
        self, root: Path, catalog: Catalog, max_bytes: int, *, fetch_wait_s: float = _FETCH_WAIT_S
    ) -> None:
        self.inventory = Inventory(root.resolve())
        self.space = Space(self.inventory, max_bytes)
        self.counts = CacheCounts()
        self._catalog = catalog
        self._fetch_wait_s = fetch_wait_s
        self._counting = threading.Lock()
        #: Hashed by this process: after a restart every entry is hashed once more.
        self._hashed: OrderedDict[tuple[Path, int], None] = OrderedDict()

    # -- reading

    @contextlib.contextmanager
    def open(self, key: ModelKey) -> Iterator[Artifact]:
        """The model's files, which stay as they are while the context lasts, whoever wants their room.

        Fetches it if it is not here; for many who want it at once that is done once.
        Raises UnknownModel, StoreUnavailable, StoreCorrupt, StorageFull (ModelTooLarge), TimedOut.
        """
        held, manifest = self._hit(key) or self._find_or_fetch(key)
        with self._until_closed(key, held):
            yield Artifact(self.inventory.folder_of(key), manifest)

    @contextlib.contextmanager
    def hashed(self, artifact: Artifact) -> Iterator[Artifact]:
        """The open artifact after every byte of it was read and found right, for who is about to load it.
        Where one is not, the model is fetched again.

        Raises as ``open`` does.
        """
        try:
            check_content(artifact.folder)
        except Damaged:
            # Hashed again there, alone: another process may have put it right meanwhile.
            held, manifest = self._find_or_fetch(artifact.manifest.key, touched=True)
            with self._until_closed(manifest.key, held):
                yield Artifact(artifact.folder, manifest)
            return
        yield artifact

    @contextlib.contextmanager
    def _until_closed(self, key: ModelKey, held: FileLock) -> Iterator[None]:
        try:
            yield
        finally:
            held.release()
            folder = self.inventory.folder_of(key)
            if (folder / DOOMED).exists():
                self.space.evict(folder)

    def _hit(self, key: ModelKey) -> tuple[FileLock, Manifest] | None:
        """The entry, held, if it is here and was not touched since this process hashed it."""
        folder = self.inventory.folder_of(key)
        held = hold(folder)
        if held is None:
            return None
        try:
            if (folder, held.inode) in self._hashed:
                manifest = check_looks(folder)
                self._used(folder)
                self._count(hits=1)
                return held, manifest
        except Damaged:
            pass
        except BaseException:
            held.release()
            raise
        held.release()
        return None

    def _find_or_fetch(self, key: ModelKey, *, touched: bool = False) -> tuple[FileLock, Manifest]:
        """The slow way: one at a time for a model, hash what is here, or fetch it. `touched` says that what
        is here was seen not to be right, whatever it looks like.
        """
        began = time.time()
        self.inventory.make_folders()
        path = self._lock_path(key)
        try:
            alone = lock(path, timeout_s=self._fetch_wait_s)
        except OSError as error:
            # Nothing can be written here, so nothing is fetched: but what is here is served.
            found = self._hash(key)
            if found is None:
                raise StorageFull("the model cache's folder cannot be written") from error
            return found
        with alone, disk_full_as_storage_full():
            self._mend(key)
            found = (None if touched else self._hit(key)) or self._hash(key)
            if found is None:
                _raise_failure_since(path, began)
                try:
                    found = self._fetch(key)
                except (StoreUnavailable, StoreCorrupt, StoreDenied, TimedOut) as error:
                    # Who waited for this one need not wait for the store's timeouts again, each in turn.
                    _note_failure(path, error)
                    raise
            path.unlink(missing_ok=True)
        return found

    def _lock_path(self, key: ModelKey) -> Path:
        name = hashlib.sha256(f"{key.tenant}/{key.model_id}/{key.version}".encode()).hexdigest()[:40]
        return self.inventory.locks / name

    def _heir_path(self, key: ModelKey) -> Path:
        return self._lock_path(key).with_suffix(".heir")

    def _mend(self, key: ModelKey) -> None:
        """Clear the way where something lies under the model's name that is no entry."""
        folder = self.inventory.folder_of(key)
        if (folder / DOOMED).exists() and self._catalog.has(key):
            (folder / DOOMED).unlink(
                missing_ok=True
            )  # deleted by mistake, or by somebody whose store was away
        if folder.exists() and not (folder / LOCK).exists():
            with self.space.alone():
                self.space.discard(folder)

    def _hash(self, key: ModelKey) -> tuple[FileLock, Manifest] | None:
        """The entry, held, if it is here and every byte is right; one that is not is set aside."""
        folder = self.inventory.folder_of(key)
        held = hold(folder)
        if held is None:
            return None
        try:
            manifest = check_content(folder)
            self._remember_hashed(folder, held)
        except Damaged as error:
            held.release()
            _log.error("a cached model is damaged: %s", error, extra={"model_id": key.model_id})
            self.space.set_aside(folder, self._heir_path(key))
            self._count(damaged=1)
            return None
        except BaseException:
            held.release()
            raise
        self._used(folder)
        self._count(hits=1)
        return held, manifest

    def _fetch(self, key: ModelKey) -> tuple[FileLock, Manifest]:
        self._count(misses=1)
        manifest, raw = self._catalog.manifest(key)
        check_names(manifest)
        source = Source(key, manifest, raw)
        try:
            return self._download(source), manifest
        except ModelTooLarge:
            raise
        except StorageFull:
            # Something else filled the disk meanwhile: what can be evicted now may be enough.
            return self._download(source), manifest

    def _download(self, source: Source) -> FileLock:
        started = time.monotonic()
        staging, held = self.space.stage(
            source.manifest, len(source.raw_manifest), self._heir_path(source.key)
        )
        try:
            received = download(self._catalog.objects, source, staging)
            held = self._admit(staging, held, source.key)
        except BaseException:
            held.release()
            self.space.discard(staging)
            raise
        self._count(fetched_bytes=received, fetch_seconds=time.monotonic() - started)
        return held

    def _admit(self, staging: Path, held: FileLock, key: ModelKey) -> FileLock:
        """The lock on the entry that the staged folder, or another's of the same model, has become."""
        folder = self.inventory.folder_of(key)
        if not self.space.admit(staging, held, key):
            theirs = hold(folder)
            if theirs is None:
                raise StoreUnavailable("the model was evicted in the moment that it was fetched")
            held.release()
            held = theirs
        self._remember_hashed(folder, held)
        self._used(folder)
        return held

    # -- writing

    def take(self, folder: Path, manifest: Manifest) -> bool:
        """Take in a model that was just published from `folder`, without downloading it again.

        False where there is no room, or the cache cannot be written: it is fetched when it is wanted.
        """
        raw = manifest.to_bytes()
        try:
            staging, held = self.space.stage(manifest, len(raw))
            with held:
                try:
                    take(Source(manifest.key, manifest, raw), folder, staging)
                    return self.space.admit(staging, held, manifest.key)
                except BaseException:
                    self.space.discard(staging)
                    raise
        except (OSError, EnlightError) as error:
            _log.warning("a trained model was not taken into the cache: %s", error)
            return False

    def remove(self, key: ModelKey) -> None:
        """Have a deleted model gone: at once, or with the last who has it open."""
        folder = self.inventory.folder_of(key)
        with contextlib.suppress(OSError):
            (folder / DOOMED).touch()
            self.space.evict(folder)

    # -- by hand

    def models(self) -> list[CachedModel]:
        """What is here, least recently used first."""
        return self.inventory.models()

    def pin(self, key: ModelKey, pinned: bool = True) -> bool:
        """Never evict it, or do again. False when it is not here."""
        mark = self.inventory.folder_of(key) / PINNED
        try:
            used = mark.parent.stat()
            if pinned:
                mark.touch()
            else:
                mark.unlink(missing_ok=True)
            os.utime(mark.parent, (used.st_atime, used.st_mtime))  # a mark is no use
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def evict(self, key: ModelKey) -> bool:
        """Give its room back; False when it is not here or somebody has it open."""
        evicted = self.space.evict(self.inventory.folder_of(key))
        self.space.evictions += evicted
        return evicted

    def repair(self) -> None:
        """Clear what killed processes left, and keep to a bound that was made smaller. Safe at any time."""
        # Another may be at work for long, or be stopped: its room is made and its rest cleared later, then.
        with contextlib.suppress(StorageFull, TimedOut):
            with self.space.alone():
                self.space.clear_left()
            for entry in self.inventory.models():
                if entry.doomed:
                    self.space.evict(entry.folder)
            self._clear_old_locks()
            self.space.make_room()

    def _clear_old_locks(self) -> None:
        for path in self.inventory.locks.iterdir():
            with contextlib.suppress(OSError):
                if path.name != "space" and time.time() - path.stat().st_mtime > _FETCH_WAIT_S:
                    held = try_lock(path, create=False)
                    if held is not None:
                        with held:
                            path.unlink(missing_ok=True)

    # -- keeping count

    def _used(self, folder: Path) -> None:
        with contextlib.suppress(OSError):  # a read-only or full disk still serves
            os.utime(folder)

    def _remember_hashed(self, folder: Path, held: FileLock) -> None:
        with self._counting:
            self._hashed[folder, held.inode] = None
            while len(self._hashed) > _REMEMBERED:
                self._hashed.popitem(last=False)

    def _count(self, **changes: float) -> None:
        with self._counting:
            for name, change in changes.items():
                setattr(self.counts, name, getattr(self.counts, name) + change)


def _note_failure(path: Path, error: EnlightError) -> None:
    with contextlib.suppress(OSError):
        path.write_text(json.dumps({"at": time.time(), "type": error.type, "detail": error.detail}))


def _raise_failure_since(path: Path, began: float) -> None:
    try:
        failure = json.loads(path.read_text())
        failed_at, detail = float(failure["at"]), str(failure["detail"])
        kind = _SHARED_FAILURES[failure["type"]]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if failed_at >= began:
        raise kind(detail)
