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

from dreambooth_api.training.answer import Answer
from dreambooth_api.training.checkpoint_store import CheckpointStore
from dreambooth_api.training.lease import Lease
from dreambooth_api.training.messages import (
    Checkpointed,
    Failed,
    Finished,
    Message,
    Preparing,
    Progress,
    Saving,
    Stopped,
    Stored,
    Validation,
)
from dreambooth_api.training.process import TrainerProcess
from dreambooth_api.training.publication import Publisher, publish
from dreambooth_api.training.run_state import Ending, RunFiles, RunState
from dreambooth_api.training.workspace import Job, Workspace

_log = logging.getLogger(__name__)

_WRITE_EVERY_S = 0.5  # other instances' readers see progress this late at most
_PUBLISH_AGAIN_S = (5.0, 15.0, 45.0, 135.0)
_SAVE_S = 120.0  # for a checkpoint that is being written: 10 GB of a full fine-tune of SD 1.5
_LAPSED_GRACE_S = 30.0  # for the present step
_REAP_S = 30.0  # for a killed process to be gone, and for a model that was just finished to be published


class Attendant:
    """One run that is going on. `changed` is notified of each new state, `on_end` called with the last
    one. A run with a lease saves itself and ends when that lapses. `checkpoints` are those that are to be
    forgotten when nobody needs them any more. When a run for `claimed_job` has succeeded, they and its
    workspace stay until `Trainings.settle`.
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
        checkpoints: CheckpointStore | None = None,
        lease_s: float | None = None,
        claimed_job: str | None = None,
    ) -> None:
        self.state, self.job = state, job
        self._claimed_job = claimed_job
        self._workspace, self._process = workspace, process
        self._store, self._files, self._changed, self._on_end = store, files, changed, on_end
        self._checkpoints = checkpoints
        self._leaving: Ending | None = None
        self._leave_asked = threading.Event()
        self._saving = False
        self._ended = threading.Event()
        self._lease = None if lease_s is None else Lease(lease_s, self._lapse)
        # A daemon: a service that leaves without `shutdown` is no reason to go on, and the child leaves
        # with it.
        threading.Thread(target=self._attend, name=f"run {state.run_id}", daemon=True).start()

    def join(self, lease_s: float | None) -> bool:
        """Take somebody in who wants this very run, too; False when it is about to leave."""
        if self._leaving is not None:
            return False
        if self._lease is None:
            return True
        # Who comes without a lease relies on the run, whatever becomes of who holds one.
        return self._lease.end() if lease_s is None else self._lease.renew(lease_s)

    def renew_lease(self, seconds: float) -> bool:
        """False when the run is about to leave. One without a lease, or whose lease was ended, needs none."""
        return self._leaving is None and (self._lease is None or self._lease.renew(seconds))

    def _lapse(self) -> None:
        self.ask_to_leave("lapsed")
        with contextlib.suppress(TimedOut):
            self.await_end(_LAPSED_GRACE_S, may_save=True)

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
        if not isinstance(message, Stored):
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
            case Stored(step):
                change["stored_step"] = step
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
        moment, but not without its lease: another machine may be at it by then.
        """
        if isinstance(outcome, Finished) and not self._has_lapsed:
            return self._publish(outcome)
        if self._leaving == "canceled":
            return self.state.canceled()
        if self._leaving is not None or self._has_lapsed:
            return self.state.interrupted(self._leaving or "lapsed")
        if isinstance(outcome, Failed):
            told = {"run_id": self.state.run_id, "kind": outcome.kind, "log": _tail(self._workspace.log)}
            _log.error("training failed: %s", outcome.detail, extra=told)
            return self.state.failed(outcome.detail, outcome.kind)
        return self.state.failed("the training process left unasked", "crash")

    @property
    def _has_lapsed(self) -> bool:
        return self._lease is not None and self._lease.has_lapsed

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
        if self._has_lapsed:
            raise StoreUnavailable("the lease lapsed before the store came back")
        return publish(self._store, self._workspace, self.job, finished)

    def _end(self, state: RunState) -> None:
        try:
            # The file first, then the workspace: after a crash between the two the run is known to have
            # ended.
            self._write(state)
            answer_kept = state.status == "succeeded" and self._keep_answer(state)
            if state.status in ("succeeded", "canceled") and not answer_kept:
                self._forget_checkpoints()
            if state.status == "succeeded" and not answer_kept:
                self._workspace.remove()
        finally:
            if self._lease is not None:
                self._lease.end()
            self._workspace.release()
            with self._changed:
                self.state = state
                self._on_end(state)
                self._changed.notify_all()
            self._ended.set()

    def _keep_answer(self, state: RunState) -> bool:
        if self._claimed_job is None:
            return False
        try:
            Answer(job=self._claimed_job, state=state).keep(self._workspace)
        except (OSError, EnlightError):
            _log.exception("a run's end was not kept for its job", extra={"run_id": state.run_id})
            return False
        return True

    def _forget_checkpoints(self) -> None:
        if self._checkpoints is None:
            return
        try:
            # While the workspace is still locked, so that they are not those of a next run.
            self._checkpoints.remove()
        except EnlightError as error:
            _log.warning("checkpoints were left in the object store: %s", error.detail)

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
