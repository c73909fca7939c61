"""A run's checkpoints while it trains: on the disk and, where its job says so, in the object store too."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable

from enlight_common.errors import StoreDenied, StoreUnavailable
from enlight_common.storage import open_object_store

from dreambooth_api.training import checkpoint_folder, snapshot
from dreambooth_api.training.checkpoint_store import CheckpointStore
from dreambooth_api.training.checkpoint_upload import CheckpointUpload
from dreambooth_api.training.messages import Checkpointed, Message, Preparing, Saving, Stored
from dreambooth_api.training.setup import Setup
from dreambooth_api.training.snapshot import Position
from dreambooth_api.training.workspace import Job, Workspace

_log = logging.getLogger(__name__)

_FETCH_AGAIN_S = (5.0, 15.0, 45.0)  # hours of training are worth a minute's wait for the store
_FLUSH_S = 90.0  # within what the service waits for a run that saves itself


class Saver:
    """Saves a training and puts it back. `report` hears of what is saved, from the upload's thread too."""

    def __init__(
        self, workspace: Workspace, job: Job, setup: Setup, report: Callable[[Message], None]
    ) -> None:
        self._folder, self._options, self._setup, self._report = workspace.folder, job.options, setup, report
        self._saved = 0
        self._store: CheckpointStore | None = None
        self._upload: CheckpointUpload | None = None
        if job.checkpoints is not None:
            objects = open_object_store(job.checkpoints.store, field="checkpoint store")
            self._store = CheckpointStore(objects, job.tenant, job.identity)
            self._upload = CheckpointUpload(
                self._store, job.checkpoints.writer, lambda step: report(Stored(step))
            )

    def restore(self) -> Position:
        """Go back to the newest checkpoint there is, wherever it is. Raises StorageFull, OSError."""
        if self._store is not None:
            self._report(Preparing("looking for a checkpoint"))
            self._fetch(self._store)
        position = snapshot.restore(self._folder, self._setup)
        self._saved = position.step
        # What is being uploaded takes room until it is done, though newer ones have pushed it out.
        held = 0 if self._upload is None else 1
        snapshot.check_room(self._folder, self._setup, self._options, position.step, held=held)
        return position

    def _fetch(self, store: CheckpointStore) -> None:
        here = max(map(checkpoint_folder.step_of, checkpoint_folder.all_in(self._folder)), default=0)
        for wait_s in (*_FETCH_AGAIN_S, None):
            try:
                store.fetch(self._folder, above=here)
                return
            except StoreUnavailable as error:
                _log.warning("the store cannot be asked for a checkpoint: %s", error.detail)
                if wait_s is not None:
                    time.sleep(wait_s)
            except StoreDenied as error:
                _log.warning("the store refuses to tell of checkpoints: %s", error.detail)
                return

    def save(self, position: Position) -> None:
        """Write the state after `position.step` steps, and have it uploaded. Raises OSError, StorageFull."""
        self._report(Saving(position.step))
        folder = snapshot.save(self._folder, self._setup, self._options, position)
        self._saved = position.step
        self._report(Checkpointed(position.step))
        if self._upload is not None:
            with contextlib.suppress(OSError):
                self._upload.offer(folder)

    def leave(self, position: Position) -> None:
        """Save what is not saved yet, and wait until the store has it."""
        if position.step > self._saved:
            self.save(position)
        if self._upload is not None:
            self._report(Saving(position.step))
            self._upload.flush(_FLUSH_S)
