"""The folder of one run: what it was asked, its photos, its checkpoints and at last its result.

    <root>/<identity>/lock             held (flock) by the service that follows the run and by its child
                      request.json     the `Job`
                      photos/000.png …
                      checkpoint-<step>/ …      see `checkpoint`
                      validation.png   the latest
                      result/          the model's files, whole once `finished.json` is beside them
                      publish.json     the version under which the result is about to be kept
                      trainer.log      what the child wrote to its standard error

It is named by the run's identity, so that the same request finds what an unfinished run left.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from enlight_common.errors import Busy
from enlight_common.files import bytes_under, fsync_folder, read_json, write_atomically, write_json
from enlight_common.locks import FileLock, try_lock
from PIL import Image
from pydantic import BaseModel, ConfigDict

from dreambooth_api.models.artifact import new_version
from dreambooth_api.training.messages import Finished, NotAMessage, from_json, to_json
from dreambooth_api.training.options import TrainingOptions, identity
from dreambooth_api.training.photos import Framing, read_png, shrink, write_photos

_PLANNED_FOR_S = 12 * 3600.0  # half of what the store's sweep waits for


class CheckpointPlace(BaseModel):
    """The URL of the object store that keeps the run's checkpoints, and who this run is among its writers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str
    writer: str


class Job(BaseModel):
    """What the trainer is to do. `options` are resolved; `class_images` is the folder that keeps class
    pictures; without `checkpoints` they are on the disk alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    schema_version: int = 1
    identity: str
    tenant: str
    model_id: str
    options: TrainingOptions
    framings: list[Framing]
    device: str = "cpu"
    class_images: Path
    checkpoints: CheckpointPlace | None = None


def prepare_job(
    tenant: str,
    model_id: str,
    options: TrainingOptions,
    photos: Sequence[Image.Image],
    *,
    base_revision: str | None,
    device: str,
    class_images: Path,
) -> tuple[Job, list[Image.Image]]:
    """The job and its photos at the size that the training needs. `options` must be resolved ones."""
    assert options.resolution is not None
    shrunk = [shrink(photo, options.resolution, to_square=not options.random_crop) for photo in photos]
    squares = [photo for photo, _ in shrunk]
    name = identity(tenant, f"{model_id} on {base_revision}", options, squares)
    job = Job(
        identity=name,
        tenant=tenant,
        model_id=model_id,
        options=options,
        framings=[framing for _, framing in shrunk],
        device=device,
        class_images=class_images,
    )
    return job, squares


class Workspace:
    """One run's folder. `claim` makes and locks it; the child, which inherits the lock, makes it from its
    path.
    """

    def __init__(self, folder: Path, lock: FileLock | None = None) -> None:
        self.folder = folder
        self.lock = lock
        self.photos_folder = folder / "photos"
        self.result = folder / "result"
        self.validation = folder / "validation.png"
        self.log = folder / "trainer.log"

    @classmethod
    def claim(cls, root: Path, identity: str) -> Workspace:
        """The run's folder under `root`, locked until `release`. Raises Busy when another process has it."""
        folder = root / identity
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                lock = try_lock(folder / "lock")
            except FileNotFoundError:
                continue  # whoever had it before removed the folder between the two lines
            if lock is None:
                raise Busy("this training is being run by another instance or is just ending")
            return cls(folder, lock)

    def release(self) -> None:
        if self.lock is not None:
            self.lock.release()
            self.lock = None

    def remove(self) -> None:
        """Remove everything, and let the lock go."""
        # The request goes first: without it, what a crash in the middle leaves is no run.
        (self.folder / "request.json").unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.release()

    def write_job(self, job: Job, photos: Sequence[Image.Image]) -> None:
        write_photos(self.photos_folder, photos)
        write_atomically(self.folder / "request.json", job.model_dump_json(indent=2))

    @property
    def has_job(self) -> bool:
        return (self.folder / "request.json").is_file()

    def read_job(self) -> Job:
        return Job.model_validate_json((self.folder / "request.json").read_bytes())

    def read_photos(self) -> list[Image.Image]:
        return [read_png(path) for path in sorted(self.photos_folder.glob("*.png"))]

    def keep_result(self, staged: Path, finished: Finished) -> None:
        """Make `staged` the result, in one step: it counts from when `finished.json` is there."""
        for path in staged.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        shutil.rmtree(self.result, ignore_errors=True)
        staged.rename(self.result)
        fsync_folder(self.folder)
        write_atomically(self.folder / "finished.json", to_json(finished))

    def finished(self) -> Finished | None:
        """What the run ended with, if it came to its end but was not published yet."""
        try:
            message = from_json((self.folder / "finished.json").read_bytes())
        except (OSError, NotAMessage):
            return None
        return message if isinstance(message, Finished) and self.result.is_dir() else None

    def _plan_is_old(self) -> bool:
        return time.time() - (self.folder / "publish.json").stat().st_mtime > _PLANNED_FOR_S

    def planned_version(self) -> str | None:
        """The version that the result was about to be published as when `plan_version` was last called."""
        try:
            planned = read_json(self.folder / "publish.json")["version"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return planned if isinstance(planned, str) else None

    def plan_version(self) -> str:
        """The name to publish under, the same one after a crash: so that a result is not published twice.

        Not for ever: what an upload under an old name left is swept from the store one day.
        """
        version = self.planned_version()
        if version is None or self._plan_is_old():
            version = new_version()
            write_json(self.folder / "publish.json", {"version": version})
        return version


def prune(root: Path, keep: int, keep_bytes: int) -> None:
    """Remove the oldest unfinished runs' folders beyond `keep` of them or `keep_bytes` together, those in
    use left alone.
    """
    folders = [path for path in root.glob("*") if path.is_dir()] if root.is_dir() else []
    folders.sort(key=_last_change, reverse=True)
    kept = 0
    for index, folder in enumerate(folders):
        kept += bytes_under(folder)
        if index >= keep or kept > keep_bytes:
            with contextlib.suppress(Busy):
                Workspace.claim(root, folder.name).remove()


def _last_change(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
