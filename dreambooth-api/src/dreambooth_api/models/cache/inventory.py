"""What the cache's folder holds, and what that takes of the disk. It is read off the folder each time."""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from enlight_common.files import bytes_under

from dreambooth_api.models.artifact import ModelKey
from dreambooth_api.models.cache.entry import DOOMED, LOCK, PINNED

BOUND = "bound"
RESERVED = ".reserved"


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


class Inventory:
    """The cache's folder. See the package for what is where."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.entries, self.incoming = root / "entries", root / "incoming"
        self.trash, self.damaged, self.locks = root / "trash", root / "damaged", root / "locks"
        self._sizes: dict[tuple[str, int], int] = {}
        self._sizing = threading.Lock()
        self.make_folders()

    def make_folders(self) -> None:
        """Make the cache's own folders: at the start, and when somebody emptied the cache with rm -r."""
        for folder in (self.entries, self.incoming, self.trash, self.damaged, self.locks):
            folder.mkdir(parents=True, exist_ok=True)

    def models(self) -> list[CachedModel]:
        """Every entry, least recently used first. One that goes meanwhile is left out."""
        found = []
        for tenant in folders_in(self.entries):
            for model in folders_in(tenant):
                for folder in folders_in(model):
                    with contextlib.suppress(FileNotFoundError):
                        found.append(self._describe(ModelKey(tenant.name, model.name, folder.name), folder))
        found.sort(key=lambda entry: entry.last_used)
        self._forget_sizes({str(entry.folder) for entry in found})
        return found

    def versions(self, tenant: str, model_id: str) -> list[str]:
        """The versions of a model that are here, newest first."""
        folders = folders_in(self.entries / tenant / model_id)
        return sorted((path.name for path in folders if not (path / DOOMED).exists()), reverse=True)

    def folder_of(self, key: ModelKey) -> Path:
        """Where the entry is or would be."""
        return self.entries / key.tenant / key.model_id / key.version

    def used_bytes(self) -> int:
        """What the folder takes of the disk, as `du` counts, with all of what is still being fetched."""
        return self.bytes_of(self.models())

    def bytes_of(self, models: list[CachedModel]) -> int:
        known = sum(entry.bytes for entry in models)
        tenants = folders_in(self.entries)
        names = [model for tenant in tenants for model in folders_in(tenant)]
        above = sum(map(_own_bytes, (self.root, self.root / BOUND, self.entries, *tenants, *names)))
        rest = sum(map(_tree_bytes, (self.trash, self.damaged, self.locks)))
        fetched = sum(max(_tree_bytes(path), _reserved(path)) for path in folders_in(self.incoming))
        return known + above + rest + _own_bytes(self.incoming) + fetched

    def outstanding(self) -> int:
        """Bytes promised to downloads that are not on the disk yet."""
        return sum(max(0, _reserved(path) - _tree_bytes(path)) for path in folders_in(self.incoming))

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


def folders_in(folder: Path) -> list[Path]:
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
