"""The service's side of training: start a run, tell how it goes, cancel it. One runs at a time on an
instance.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from enlight_common.errors import (
    Busy,
    Conflict,
    EnlightError,
    InvalidField,
    ShuttingDown,
    StorageFull,
    TimedOut,
)
from enlight_common.files import free_bytes
from enlight_common.ids import check_id
from PIL import Image

from dreambooth_api.models.artifact import ModelKey, now
from dreambooth_api.models.bases import resolve_base
from dreambooth_api.training.answer import Answer
from dreambooth_api.training.attendant import Attendant
from dreambooth_api.training.checkpoint_store import SharedCheckpoints
from dreambooth_api.training.device_sharing import DeviceSharing
from dreambooth_api.training.leftovers import Leftovers
from dreambooth_api.training.options import TrainingOptions
from dreambooth_api.training.orders import SharingPolicy
from dreambooth_api.training.photos import check_count
from dreambooth_api.training.publication import Publisher, was_published
from dreambooth_api.training.run_state import INSTANCE, Ending, RunFiles, RunState, new_run_id
from dreambooth_api.training.spare import SpareWanted, Trainers
from dreambooth_api.training.workspace import CheckpointPlace, Job, Workspace, prepare_job, prune

_log = logging.getLogger(__name__)

_REMEMBERED = 64  # ended runs whose state is kept in memory, should its file be lost
_MIN_FREE_BYTES = 256_000_000  # below this nothing is started; what a run needs, it finds once it is set up


class Trainings:
    """All runs that this instance can tell of, and the one that it is at.

    `folder` is shared by the instances and holds `runs/`, `training/` and `class-images/`; `device` is
    "cpu" or "cuda:N"; `threads` bounds the child's CPU threads. The newest `keep_runs` state files are kept,
    and `keep_unfinished` workspaces, fewer where those take more than `keep_unfinished_bytes`. Without
    `checkpoints` they are on this machine's disk alone. `spare` says whether between runs, from `prepare` on,
    a process is ready for the next one; `policy` says who has the device while `sharing` knows of pictures.
    """

    def __init__(
        self,
        folder: Path,
        store: Publisher,
        instance: str,
        *,
        device: str = "cpu",
        threads: int | None = None,
        keep_runs: int = 500,
        keep_unfinished: int = 16,
        keep_unfinished_bytes: int = 64_000_000_000,
        cancel_grace_s: float = 10.0,
        checkpoints: SharedCheckpoints | None = None,
        spare: SpareWanted = "off",
        policy: SharingPolicy = "interactive-first",
    ) -> None:
        if not INSTANCE.fullmatch(instance):
            raise InvalidField("INSTANCE_NAME", "must be a small letter and up to 15 more or digits")
        self._folder, self._store, self._instance, self._device = folder.resolve(), store, instance, device
        self._keep_runs, self._cancel_grace_s = keep_runs, cancel_grace_s
        self._keep_unfinished, self._keep_unfinished_bytes = keep_unfinished, keep_unfinished_bytes
        self._trainers = Trainers({} if threads is None else {"OMP_NUM_THREADS": str(threads)}, spare)
        self._policy = policy
        self.sharing = DeviceSharing()
        self._checkpoints = checkpoints
        self._work = self._folder / "training"
        self._files = RunFiles(self._folder / "runs")
        self._leftovers = Leftovers(self._work, self._files, store)
        self._starting = threading.Lock()
        self._changed = threading.Condition()
        self._active: Attendant | None = None
        self._ended: OrderedDict[str, RunState] = OrderedDict()
        self._closed = False
        self._leftovers.end_all_of(instance)

    def prepare(self) -> None:
        """Start the spare process, where there is to be one. When the machine has nothing better to do: it
        imports for seconds.
        """
        self._trainers.keep_spare()

    @property
    def active(self) -> RunState | None:
        """The latest state of the run that this instance is at."""
        active = self._active
        return None if active is None else active.state

    def get(self, run_id: str) -> RunState:
        """The run's latest state, from memory or from its file. Raises NotFound."""
        with self._changed:
            if self._active is not None and self._active.state.run_id == run_id:
                return self._active.state
            if run_id in self._ended:
                return self._ended[run_id]
        state = self._files.read(run_id)
        return state if state.is_terminal else self._leftovers.end_if_left(state)

    def validation_picture(self, run_id: str) -> Path | None:
        """The PNG of the run's latest validation picture. Raises NotFound for what is no run id."""
        path = self._files.picture(run_id)
        return path if path.is_file() else None

    def follow(
        self,
        run_id: str,
        after: int = 0,
        *,
        stop: Callable[[], bool] = lambda: False,
        interval: float = 0.25,
    ) -> Iterator[RunState | None]:
        """Each new state with a sequence above `after`, the last being terminal; None when there was none for
        `interval` seconds, for the caller to see to its client. Ends early when `stop` says so.

        Raises NotFound, at once and not at the first state.
        """
        self.get(run_id)
        return self._follow(run_id, after, stop, interval)

    def _follow(
        self, run_id: str, after: int, stop: Callable[[], bool], interval: float
    ) -> Iterator[RunState | None]:
        while True:
            state = self.get(run_id)
            if state.sequence > after:
                after = state.sequence
                yield state
            elif not state.is_terminal:
                yield None
            if state.is_terminal or stop():
                return
            self._wait_for_change(run_id, after, interval)

    def _wait_for_change(self, run_id: str, after: int, interval: float) -> None:
        with self._changed:
            active = self._active
            if active is not None and active.state.run_id == run_id:
                if active.state.sequence <= after:
                    self._changed.wait(interval)
                return
        # It has just ended here, or is another instance's and known by its file alone.
        time.sleep(0 if run_id in self._ended else interval)

    def start(
        self,
        tenant: str,
        model_id: str,
        options: TrainingOptions,
        photos: Sequence[Image.Image],
        *,
        lease_s: float | None = None,
        claimed_job: str | None = None,
    ) -> RunState:
        """Start the run, go on with it where an equal request was cut short, or join an equal one running
        here.

        With `claimed_job`, the id of the job that this is for, its end is kept until `settle`: the same job
        again is answered with it, as a run of its own that has succeeded.

        With `lease_s` the run saves itself and ends unless `renew_lease` is called within so many seconds,
        again and again. Without, it goes on, also when one with a lease is joined.
        Raises Busy while another runs, ShuttingDown, InvalidField, UnsupportedBaseModel, StorageFull.
        """
        check_id(tenant, "tenant")
        check_id(model_id, "model_id")
        check_count(len(photos))
        if options.captions is not None and len(options.captions) != len(photos):
            raise InvalidField("captions", f"must be {len(photos)}, one for each photo")
        base = resolve_base(options.base_model)
        job, squares = prepare_job(
            tenant,
            model_id,
            options.resolved(base),
            photos,
            base_revision=base.revision,
            device=self._device,
            class_images=self._folder / "class-images",
        )
        with self._starting:
            if self._closed:
                raise ShuttingDown("this instance is shutting down")
            active = self._active
            if active is not None:
                if active.job.identity == job.identity and active.join(lease_s):
                    return active.state
                raise Busy("this instance is training already", retry_after=_retry_after(active.state))
            return self._begin(job, squares, lease_s, claimed_job)

    def _begin(
        self, job: Job, photos: Sequence[Image.Image], lease_s: float | None, claimed_job: str | None
    ) -> RunState:
        self._files.prune(self._instance, self._keep_runs)
        workspace = Workspace.claim(self._work, job.identity)
        try:
            if was_published(self._store, workspace, job.tenant, job.model_id) is not None:
                again = self._answer_again(workspace, claimed_job)
                if again is not None:
                    return again
                # Its owner died between publishing and tidying up; this is a request for a new version.
                workspace.remove()
                workspace = Workspace.claim(self._work, job.identity)
            prune(self._work, self._keep_unfinished, self._keep_unfinished_bytes)
            if free_bytes(self._folder) < _MIN_FREE_BYTES:
                raise StorageFull("there is too little room on the disk to train")
            state = self._first_state(job)
            shared = self._checkpoints
            if shared is not None and (shared.always or lease_s is not None):
                place = CheckpointPlace(store=shared.url, writer=state.run_id)
                job = job.model_copy(update={"checkpoints": place})
            workspace.write_job(job, photos)
            self._files.write(state)
            try:
                process = self._trainers.begin(workspace, self._policy)
            except OSError as error:
                self._files.write(state.failed("the training process did not start", "crash"))
                raise StorageFull("there is no memory or room left for a training process") from error
        except BaseException:
            workspace.release()
            raise
        self.sharing.attach(process)
        with self._changed:
            self._active = Attendant(
                state,
                job,
                workspace,
                process,
                store=self._store,
                files=self._files,
                changed=self._changed,
                on_end=self._forget_active,
                # Also where it puts none there: an earlier run of the same request may have.
                checkpoints=None if shared is None else shared.of(job.tenant, job.identity),
                lease_s=lease_s,
                claimed_job=claimed_job,
            )
        return state

    def _answer_again(self, workspace: Workspace, claimed_job: str | None) -> RunState | None:
        """The end that this very job came to before, under a run id of its own, which has the model now."""
        answer = Answer.in_workspace(workspace)
        if answer is None or answer.job != claimed_job:
            return None
        its_own = {"run_id": new_run_id(self._instance), "instance": self._instance}
        answer = answer.model_copy(update={"state": answer.state.model_copy(update=its_own)})
        self._files.write(answer.state)
        answer.keep(workspace)
        workspace.release()
        with self._changed:
            self._remember(answer.state)
        return answer.state

    def settle(self, run_id: str, undo: Callable[[ModelKey], None] | None = None) -> RunState:
        """Forget what was kept of a run because its caller might not have heard of its end, or nothing where
        the same job was answered with it again since. With `undo` nobody wants its model, which is handed to
        it to be deleted.

        Raises NotFound, Conflict while the run goes on, and what `undo` does.
        """
        state = self.get(run_id)
        if not state.is_terminal:
            raise Conflict("the run goes on")
        try:
            workspace = Workspace.claim(self._work, state.identity)
        except Busy:
            return state  # an equal request's by now
        try:
            answer = Answer.in_workspace(workspace)
            if answer is not None and answer.state.run_id == run_id:
                if undo is not None:
                    undo(ModelKey(state.tenant, state.model_id, state.version or ""))
                self._forget_checkpoints(state)
                workspace.remove()
            elif not workspace.has_job:
                workspace.remove()
        finally:
            workspace.release()
        return state

    def _forget_checkpoints(self, state: RunState) -> None:
        if self._checkpoints is not None:
            try:
                self._checkpoints.of(state.tenant, state.identity).remove()
            except EnlightError as error:
                _log.warning("checkpoints were left in the object store: %s", error.detail)

    def _first_state(self, job: Job) -> RunState:
        assert job.options.learning_rate is not None
        return RunState(
            run_id=new_run_id(self._instance),
            instance=self._instance,
            identity=job.identity,
            tenant=job.tenant,
            model_id=job.model_id,
            method=job.options.method,
            base_model=job.options.base_model,
            learning_rate_used=job.options.learning_rate,
            status="processing",
            phase="starting",
            total=job.options.steps,
            created_at=now(),
            started_at=now(),
        )

    def _forget_active(self, state: RunState) -> None:
        """Called with `_changed` held."""
        self.sharing.detach()
        self._active = None
        # Not while it trains, which would take memory and cores from it.
        threading.Thread(target=self.prepare, name="spare", daemon=True).start()
        self._remember(state)

    def _remember(self, state: RunState) -> None:
        """Called with `_changed` held."""
        self._ended[state.run_id] = state
        while len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)

    def renew_lease(self, run_id: str, seconds: float) -> RunState:
        """Let the run go on for `seconds` from now; nothing happens to one that has no lease.

        Raises NotFound, Conflict when it has ended, is ending, or is another instance's.
        """
        active = self._active
        if active is not None and active.state.run_id == run_id and active.renew_lease(seconds):
            return active.state
        self.get(run_id)
        raise Conflict("the run does not go on here, or not for long")

    def cancel(self, run_id: str, why: Ending = "canceled") -> RunState:
        """End the run and return its last state; one that has ended stays as it is. Its checkpoint is kept
        on the disk; in the object store only when it was "stopped".

        Raises NotFound, Conflict when another instance is at it, TimedOut should it not end.
        """
        active = self._ask_to_leave(run_id, why)
        if active is not None:
            active.await_end(self._cancel_grace_s, may_save=True)
        state = self.get(run_id)
        if not state.is_terminal:
            raise Conflict("the run is another instance's to cancel")
        return state

    def give_up(self, run_id: str) -> None:
        """Cancel without waiting for the end. From now on an equal request does not join the run."""
        active = self._ask_to_leave(run_id, "canceled")
        if active is not None:
            threading.Thread(target=self._see_off, args=(active,), name="see off", daemon=True).start()

    def _ask_to_leave(self, run_id: str, why: Ending) -> Attendant | None:
        active = self._active
        if active is None or active.state.run_id != run_id:
            return None
        active.ask_to_leave(why)
        return active

    def _see_off(self, active: Attendant) -> None:
        try:
            active.await_end(self._cancel_grace_s, may_save=True)
        except TimedOut:
            _log.exception("a run that was given up did not end", extra={"run_id": active.state.run_id})

    def shutdown(self, grace_s: float) -> None:
        """Take no more runs, and have the present one save itself and leave within about `grace_s`
        seconds.
        """
        with self._starting:
            self._closed = True
            active = self._active
        self._trainers.close()
        if active is not None:
            active.ask_to_leave("interrupted")
            # Not a second more: whoever stops the service kills what is left then.
            active.await_end(grace_s, may_save=False)


def _retry_after(state: RunState) -> float:
    """Seconds until it is worth asking again: the run's own guess, within reason."""
    return min(120.0, max(2.0, state.seconds_left if state.seconds_left is not None else 10.0))
