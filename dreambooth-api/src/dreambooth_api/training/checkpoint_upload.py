"""Takes checkpoints to the object store beside the training, which goes on meanwhile."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from enlight_common.errors import EnlightError

from dreambooth_api.training import checkpoint_folder
from dreambooth_api.training.checkpoint_folder import PARTS, STATE, file_name
from dreambooth_api.training.checkpoint_store import CheckpointStore

_log = logging.getLogger(__name__)

_AGAIN_S = 15.0  # after a failed upload, unless a newer checkpoint comes before


@dataclass(frozen=True)
class _Opened:
    """A checkpoint's files, open: they can be read to the end though newer ones push them off the disk."""

    step: int
    files: Mapping[str, BinaryIO]
    state: BinaryIO
    stack: ExitStack

    @classmethod
    def of(cls, folder: Path) -> _Opened:
        with ExitStack() as stack:
            names = [file_name(part) for part in PARTS]
            files = {name: stack.enter_context((folder / name).open("rb")) for name in names}
            state = stack.enter_context((folder / STATE).open("rb"))
            return cls(checkpoint_folder.step_of(folder), files, state, stack.pop_all())


class CheckpointUpload:
    """Uploads what is offered, in a thread; of several that wait, the newest. A store that fails is tried
    again later: it never ends the training.
    """

    def __init__(self, store: CheckpointStore, writer: str, uploaded: Callable[[int], None]) -> None:
        """`uploaded` is called in the thread with the step of each checkpoint that is in the store."""
        self._store, self._writer, self._uploaded = store, writer, uploaded
        self._waiting: _Opened | None = None
        self._busy = False
        self._failures = 0
        self._hurry = False
        self._changed = threading.Condition()
        threading.Thread(target=self._work, name="checkpoint upload", daemon=True).start()

    def offer(self, folder: Path) -> None:
        """Upload the checkpoint in `folder` soon, instead of any that waits. Raises OSError."""
        opened = _Opened.of(folder)
        with self._changed:
            if self._waiting is not None:
                self._waiting.stack.close()
            self._waiting = opened
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait for what was offered. False if it is not in the store: the time was over, or the store failed
        once more, after all of its own attempts.
        """
        with self._changed:
            before, self._hurry = self._failures, True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._idle or self._failures > before, timeout_s)
            return self._idle

    @property
    def _idle(self) -> bool:
        return self._waiting is None and not self._busy

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None)
                opened, self._waiting, self._busy = self._waiting, None, True
            assert opened is not None
            done = self._upload(opened)
            with self._changed:
                self._busy = False
                if not done:
                    self._failures += 1
                if done or self._waiting is not None:
                    opened.stack.close()
                else:
                    self._wait_with(opened)
                self._hurry = False
                self._changed.notify_all()

    def _wait_with(self, failed: _Opened) -> None:
        """Until a newer checkpoint is offered, somebody wants to leave, or the store may be back."""
        self._waiting = failed
        self._changed.notify_all()
        self._changed.wait_for(lambda: self._waiting is not failed or self._hurry, _AGAIN_S)

    def _upload(self, opened: _Opened) -> bool:
        started = time.monotonic()
        try:
            self._store.put(opened.step, self._writer, opened.files, opened.state)
        except (EnlightError, OSError) as error:
            _log.warning("a checkpoint was not uploaded: %s", error, extra={"step": opened.step})
            return False
        seconds = round(time.monotonic() - started, 2)
        _log.info("a checkpoint was uploaded", extra={"step": opened.step, "seconds": seconds})
        with contextlib.suppress(OSError):
            self._uploaded(opened.step)
        return True
