"""Follows one run from its child's first message to its end, and alone changes its state: so it has one
end.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from enlight_common.errors import EnlightError, StorageFull, StoreUnavailable, TimedOut

from dreambooth_api.training.messages import (
    Checkpointed,
    Failed,
    Finished,
    Message,
    Preparing,
    Progress,
    Saving,
    Stopped,
    Validation,
)
from dreambooth_api.training.process import TrainerProcess
from dreambooth_api.training.publication import Publisher, publish
from dreambooth_api.training.run_state import RESUMABLE, Ending, RunFiles, RunState
from dreambooth_api.training.workspace import Job, Workspace

_log = logging.getLogger(__name__)

_WRITE_EVERY_S = 0.5  # other instances' readers see progress this late at most
_PUBLISH_AGAIN_S = (5.0, 15.0, 45.0, 135.0)
_SAVE_S = 120.0  # for a checkpoint that is being written: 10 GB of a full fine-tune of SD 1.5
_REAP_S = 30.0  # for a killed process to be gone, and for a model that was just finished to be published


class Attendant:
    """One run that is going on. `changed` is notified of each new state, `on_end` called with the last
    one.
    """

    def __init__(
        self,
        state: RunState,
        job: Job,
        workspace: Workspace,
        process: TrainerProcess,
        *,
        store: Publisher,
        files: RunFiles,
        changed: threading.Condition,
        on_end: Callable[[RunState], None],
    ) -> None:
        self.state, self.job = state, job
        self._workspace, self._process = workspace, process
        self._store, self._files, self._changed, self._on_end = store, files, changed, on_end
        self._leaving: Ending | None = None
        self._leave_asked = threading.Event()
        self._saving = False
        self._ended = threading.Event()
        # A daemon: a service that leaves without `shutdown` is no reason to go on, and the child leaves
        # with it.
        threading.Thread(target=self._attend, name=f"run {state.run_id}", daemon=True).start()

    @property
    def is_leaving(self) -> bool:
        return self._leaving is not None

    def ask_to_leave(self, why: Ending) -> None:
        """Have the run save itself and end, and take nobody in any more."""
        self._leaving = self._leaving or why
        self._leave_asked.set()
        self._process.ask_to_stop()

    def await_end(self, grace_s: float, *, may_save: bool) -> None:
        """Kill the run if it has not ended in `grace_s` seconds; with `may_save`, one that is writing a
        checkpoint then is left to finish it. Raises TimedOut.
        """
        if self._ended.wait(grace_s) or (may_save and self._saving and self._ended.wait(_SAVE_S)):
            return
        self._process.kill()
        if not self._ended.wait(_REAP_S):
            raise TimedOut("the run did not end in time")

    def _attend(self) -> None:
        written = 0.0
        last: RunState | None = None
        try:
            for message in self._process.messages():
                if isinstance(message, Finished | Failed | Stopped):
                    last = self._conclude(message)
                    continue
                self._tell(self._changed_by(message))
                if time.monotonic() - written >= _WRITE_EVERY_S:
                    written = time.monotonic()
                    self._write(self.state)
        except Exception:
            _log.exception("the thread that follows a run failed", extra={"run_id": self.state.run_id})
            self._process.kill()
        finally:
            self._end(last or self.state.failed("the service lost sight of the training", "crash"))

    def _tell(self, state: RunState) -> None:
        with self._changed:
            self.state = state
            self._changed.notify_all()

    def _changed_by(self, message: Message) -> RunState:
        change: dict[str, object] = {}
        self._saving = isinstance(message, Saving)
        match message:
            case Preparing(phase, done, total):
                change["phase"] = f"{phase} {done}/{total}" if total else phase
            case Progress():
                change |= {
                    "phase": "training",
                    "step": message.step,
                    "loss": message.loss,
                    "learning_rate": message.learning_rate,
                    "images_per_second": message.images_per_second,
                    "seconds_left": message.seconds_left,
                }
            case Checkpointed(step):
                change["checkpoint_step"] = step
            case Validation(step, path):
                with contextlib.suppress(OSError):
                    self._keep_picture(Path(path))
                    change["validation_step"] = step
        return self.state.after(**change)

    def _keep_picture(self, path: Path) -> None:
        kept = self._files.picture(self.state.run_id)
        staged = kept.with_suffix(".tmp")
        shutil.copyfile(path, staged)
        staged.replace(kept)

    def _conclude(self, outcome: Finished | Failed | Stopped) -> RunState:
        """The run's last state. A finished one is published, even if it was asked to leave at the last
        moment.
        """
        if isinstance(outcome, Finished):
            return self._publish(outcome)
        if self._leaving == "canceled":
            return self.state.canceled()
        if self._leaving == "interrupted":
            return self.state.failed(RESUMABLE, "interrupted")
        if isinstance(outcome, Failed):
            told = {"run_id": self.state.run_id, "kind": outcome.kind, "log": _tail(self._workspace.log)}
            _log.error("training failed: %s", outcome.detail, extra=told)
            return self.state.failed(outcome.detail, outcome.kind)
        return self.state.failed("the training process left unasked", "crash")

    def _publish(self, finished: Finished) -> RunState:
        self._tell(self.state.after(phase="publishing"))
        try:
            version = self._publish_patiently(finished)
        except StorageFull as error:
            return self.state.failed(error.detail, "storage-full")
        except (EnlightError, OSError):
            _log.exception("a trained model could not be published", extra={"run_id": self.state.run_id})
            return self.state.failed("the trained model could not be put into the store", "publication")
        return self.state.succeeded(version)

    def _publish_patiently(self, finished: Finished) -> str:
        for wait_s in _PUBLISH_AGAIN_S:
            try:
                return publish(self._store, self._workspace, self.job, finished)
            except StoreUnavailable:
                # After hours of training it may wait some minutes for a store to come back.
                _log.warning("the object store cannot be reached, trying again in %s s", wait_s)
                if self._leave_asked.wait(wait_s):
                    break
        return publish(self._store, self._workspace, self.job, finished)

    def _end(self, state: RunState) -> None:
        try:
            # The file first, then the workspace: after a crash between the two the run is known to have
            # ended.
            self._write(state)
            if state.status == "succeeded":
                self._workspace.remove()
        finally:
            self._workspace.release()
            with self._changed:
                self.state = state
                self._on_end(state)
                self._changed.notify_all()
            self._ended.set()

    def _write(self, state: RunState) -> None:
        try:
            self._files.write(state)
        except (OSError, EnlightError):
            # Memory still has it; a full disk must not end a run that may yet succeed.
            _log.exception("a run's state could not be written", extra={"run_id": state.run_id})


def _tail(path: Path, size: int = 4000) -> str:
    try:
        return path.read_bytes()[-size:].decode("utf-8", "replace")
    except OSError:
        return ""
