"""Where trained models are kept: one small interface, and the folder behind it.

    root/models/<tenant>/<model id>/<version>/   a version, complete because its manifest was written last
    root/.incoming/<random>/                     being written; unknown to readers

What has no manifest does not exist. A version is deleted by taking its manifest's name away; its files go
when the last reader that has it open is done, which shared locks on the manifest tell, on any process of the
machine.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from enlight_common.errors import Conflict, InvalidField, StorageFull, UnknownModel
from enlight_common.files import fsync_folder, write_atomically
from enlight_common.ids import check_id
from pydantic import ValidationError

from dreambooth_api.models.artifact import MANIFEST, Artifact, Manifest, describe_files, new_version

_DELETED = ".deleted-" + MANIFEST
_ABANDONED_AFTER_S = 24 * 3600  # an upload still being staged after a day has no process behind it
_MAX_MANIFEST_BYTES = 4_000_000


class ModelStore(Protocol):
    """Keeps artifacts by tenant, model id and version. Every id is checked before it comes near a path."""

    def publish(self, folder: Path, manifest: Manifest) -> Artifact:
        """Keep `folder` under the manifest's names. `manifest.version` may be empty, `files` is filled in
        here.

        Raises Conflict when that version is there already, InvalidField for a file that has no place in an
        artifact, StorageFull.
        """
        ...

    def open(self, model_id: str, tenant: str = "default") -> AbstractContextManager[Artifact]:
        """The newest version, or that of `id@version`; whole until the context ends. Raises UnknownModel."""
        ...

    def list(self, tenant: str = "default") -> Sequence[Manifest]:
        """All versions of a tenant's models, by model id and newest first."""
        ...

    def delete(self, model_id: str, tenant: str = "default") -> None:
        """Forget all versions, or that of `id@version`. Raises UnknownModel when there is none."""
        ...


def open_store(url: str) -> ModelStore:
    """The store at a `file:///folder` URL or a plain path. Raises InvalidField for other schemes."""
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
        return FolderStore(Path(unquote(parts.path)))
    if not parts.scheme and url:
        return FolderStore(Path(url))
    raise InvalidField("MODEL_STORE_URL", "must be a file:// URL with a path")


class FolderStore:
    """A store in a folder, which several processes and machines may share."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._models = self.root / "models"
        self._incoming = self.root / ".incoming"
        self._models.mkdir(parents=True, exist_ok=True)
        self._incoming.mkdir(exist_ok=True)
        self._remove_abandoned()

    def publish(self, folder: Path, manifest: Manifest) -> Artifact:
        version = check_id(manifest.version or new_version(), "version")
        model = self._model_folder(manifest.model_id, manifest.tenant)
        target = model / version
        if target.exists():
            raise Conflict("this version of the model is there already")
        try:
            files = describe_files(folder)
        except ValueError as error:
            raise InvalidField("folder", str(error)) from error
        complete = manifest.model_copy(update={"version": version, "files": files})
        staged = self._incoming / uuid.uuid4().hex
        try:
            staged.mkdir()
            for entry in files:
                _link_or_copy(folder / entry.path, staged / entry.path)
            for place in (*(path for path in staged.rglob("*") if path.is_dir()), staged):
                fsync_folder(place)
            write_atomically(staged / MANIFEST, complete.model_dump_json(indent=2) + "\n")
            _rename_into(staged, target)
            fsync_folder(model)
        except OSError as error:
            shutil.rmtree(staged, ignore_errors=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull("there is no room left for the model") from error
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise Conflict("this version of the model is there already") from error
            raise
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        return Artifact(target, complete)

    @contextlib.contextmanager
    def open(self, model_id: str, tenant: str = "default") -> Iterator[Artifact]:
        for folder in self._versions(model_id, tenant):
            reading = _hold(folder)
            if reading is None:
                continue
            artifact, descriptor = reading
            try:
                yield artifact
            finally:
                os.close(descriptor)
                _remove_if_deleted(folder)
            return
        raise UnknownModel("there is no model of this id")

    def list(self, tenant: str = "default") -> Sequence[Manifest]:
        folder = self._models / check_id(tenant, "tenant")
        found = []
        for model in sorted(_folders_in(folder)):
            for version in sorted(_folders_in(model), reverse=True):
                artifact = _read(version)
                if artifact is not None:
                    found.append(artifact.manifest)
        return found

    def delete(self, model_id: str, tenant: str = "default") -> None:
        deleted = False
        for folder in self._versions(model_id, tenant):
            with contextlib.suppress(FileNotFoundError):
                (folder / MANIFEST).rename(folder / _DELETED)
                deleted = True
                fsync_folder(folder)
            _remove_if_deleted(folder)
        with contextlib.suppress(OSError):
            self._model_folder(model_id.partition("@")[0], tenant).rmdir()  # when that was the last version
        if not deleted:
            raise UnknownModel("there is no model of this id")

    def _model_folder(self, model_id: str, tenant: str) -> Path:
        folder = self._models / check_id(tenant, "tenant") / check_id(model_id, "model_id")
        if folder.is_symlink() or folder.parent.is_symlink():
            raise UnknownModel("there is no model of this id")
        return folder

    def _versions(self, model_id: str, tenant: str) -> Sequence[Path]:
        """The folders that `id` or `id@version` may mean, newest first; they need not be whole."""
        if not isinstance(model_id, str):
            raise InvalidField("model_id", "must be a string")
        name, at, version = model_id.partition("@")
        model = self._model_folder(name, tenant)
        if at:
            folder = model / check_id(version, "model_id")
            return [folder] if folder.is_dir() and not folder.is_symlink() else []
        return sorted(_folders_in(model), reverse=True)

    def _remove_abandoned(self) -> None:
        """What a killed publisher or deleter left: unknown to readers, so only room is won."""
        for staged in _folders_in(self._incoming):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - staged.stat().st_mtime > _ABANDONED_AFTER_S:
                    shutil.rmtree(staged, ignore_errors=True)
        for deleted in self._models.glob(f"*/*/*/{_DELETED}"):
            _remove_if_deleted(deleted.parent)


def _rename_into(staged: Path, target: Path) -> None:
    """Rename, making the folders above; again when a deleter of the last other version removed them just
    then.
    """
    for attempt in range(3):
        for folder in (target.parent.parent, target.parent):
            folder.mkdir(exist_ok=True)
            fsync_folder(folder.parent)
        try:
            staged.rename(target)
            return
        except FileNotFoundError:
            if attempt == 2:
                raise


def _folders_in(folder: Path) -> Sequence[Path]:
    try:
        entries = list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [
        path for path in entries if path.is_dir() and not path.is_symlink() and not path.name.startswith(".")
    ]


def _link_or_copy(source: Path, target: Path) -> None:
    """The file again under another name, synced. A hard link costs nothing; other file systems get a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())


def _read(folder: Path) -> Artifact | None:
    """The artifact in `folder`, or None where there is none: no manifest, another's, or a file cut short."""
    manifest = folder / MANIFEST
    try:
        if manifest.is_symlink() or manifest.stat().st_size > _MAX_MANIFEST_BYTES:
            return None
        artifact = Artifact(folder, Manifest.model_validate_json(manifest.read_bytes()))
    except (OSError, ValidationError):
        return None
    names = (artifact.manifest.tenant, artifact.manifest.model_id, artifact.manifest.version)
    if names != folder.parts[-3:] or not all(
        _is_whole(folder, e.path, e.size) for e in artifact.manifest.files
    ):
        return None
    return artifact


def _is_whole(folder: Path, name: str, size: int) -> bool:
    path = folder / name
    try:
        inside = path.resolve().is_relative_to(folder)
        return inside and not path.is_symlink() and path.is_file() and path.stat().st_size == size
    except OSError:
        return False


def _hold(folder: Path) -> tuple[Artifact, int] | None:
    """The artifact with a shared lock on its manifest, by which deleters know that it is being read."""
    try:
        descriptor = os.open(folder / MANIFEST, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        # Read after the lock is held: a deleter may have been between the two.
        artifact = _read(folder)
    except OSError:
        artifact = None
    if artifact is None:
        os.close(descriptor)
        return None
    return artifact, descriptor


def _remove_if_deleted(folder: Path) -> None:
    """Remove a version whose manifest was renamed away, unless somebody still reads it."""
    try:
        descriptor = os.open(folder / _DELETED, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)
