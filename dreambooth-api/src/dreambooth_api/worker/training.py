"""One training: from its photos to its model, with the instance's trainer."""

from __future__ import annotations

import contextlib
import logging
import time
from datetime import datetime

from enlight_common.errors import EnlightError, StoreDenied
from enlight_common.schemas.claims import Output, Progress, TrainedModel

from dreambooth_api.training.run_state import RunState
from dreambooth_api.worker.held import Held
from dreambooth_api.worker.http import Unreachable
from dreambooth_api.worker.instance import Instance, NotDone
from dreambooth_api.worker.outcomes import (
    OWN_FAULT_PAUSE_S,
    Canceled,
    Failed,
    GivenBack,
    Lost,
    Outcome,
    Succeeded,
    of_refusal,
)
from dreambooth_api.worker.transfers import Transfers, is_final

_log = logging.getLogger(__name__)

_LOOK_S = 1.0
_SHORTEST_LEASE_S = 5.0  # that an instance takes
_GONE_S = 15.0  # an instance that does not answer for so long is dead
#: Kinds of errors that the same request would meet on any machine.
_HOPELESS = ("diverged", "base-model", "out-of-memory")


class TrainingWork:
    """Drives one run, which has a lease of its own: should this process vanish, the instance stops it."""

    def __init__(self, held: Held, instance: Instance, transfers: Transfers) -> None:
        self._held, self._instance, self._transfers = held, instance, transfers
        self._claim = held.claim
        self._published: str | None = None  # the run whose model is in the store

    def run(self) -> Outcome:
        """How it ended; then `settle`, or `undo`, or neither where it is not known whether that was taken."""
        claim = self._claim
        try:
            photos = self._transfers.photos(claim.photos)
        except EnlightError as error:
            if is_final(error):
                return Failed(error.type, f"the training's photos: {error.detail}")
            return GivenBack(f"the photos: {error.detail}", counts=isinstance(error, StoreDenied), pause_s=5)
        body = {**claim.input, "IMAGE_LIST": photos}
        if self._held.why is not None:
            return self._without_a_run()
        try:
            state = self._instance.start_training(claim, body, self._lease_s)
        except NotDone as error:
            return of_refusal(error.answer)
        except Unreachable as error:
            # Should it have begun: whatever killed it may have been this job.
            return GivenBack("the instance cannot be reached", counts=error.began, pause_s=2)
        finally:
            del photos, body  # tens of MB that hours of training need not hold
        self._held.note(f"training as run {state.run_id}")
        return self._follow(state)

    @property
    def _lease_s(self) -> float:
        return max(_SHORTEST_LEASE_S, self._held.lease_s)

    def settle(self) -> None:
        """Have the instance forget what it would have answered the same job with, had this not arrived."""
        self._settle(undo=False)

    def undo(self) -> None:
        """Delete the model: the job is another's, so nobody knows of this version."""
        self._settle(undo=True)

    def _settle(self, *, undo: bool) -> None:
        run_id, self._published = self._published, None
        if run_id is not None:
            try:
                self._instance.settle_training(self._claim, run_id, undo=undo)
            except (Unreachable, NotDone, EnlightError) as error:
                # What is kept for a next claim goes with the instance's other leftovers.
                _log.warning("a run was not settled: %s", error, extra={"run_id": run_id, "undo": undo})

    def _follow(self, state: RunState) -> Outcome:
        heard = renewed = time.monotonic()
        phase = ""
        while not state.is_terminal:
            if self._held.wait(_LOOK_S) is not None:
                return self._stop(state)
            now = time.monotonic()
            try:
                if now - renewed >= self._lease_s / 3:
                    # Too late is no error: the run is being stopped, and its state will say so.
                    with contextlib.suppress(NotDone):
                        self._instance.renew_lease(self._claim, state.run_id, self._lease_s)
                    renewed = now
                state = self._instance.run(self._claim, state.run_id)
            except NotDone as error:
                if error.answer.status == 404:
                    return GivenBack("the instance knows nothing of the run any more", counts=True)
                self._held.note(f"the instance does not tell how it goes: {error}")
            except (Unreachable, EnlightError):
                pass
            else:
                heard = now
                self._tell(state)
                if state.phase != phase:
                    phase = state.phase
                    self._held.note(f"{phase}, step {state.step} of {state.total}")
            if now - heard > _GONE_S:
                return GivenBack("the instance died", counts=True)
        return self._outcome(state)

    def _tell(self, state: RunState) -> None:
        self._held.tell(
            Progress(
                fraction=min(1.0, state.step / max(1, state.total)),
                step=state.step,
                total=state.total,
                seconds_left=state.seconds_left,
                loss=state.loss,
                phase=state.phase[:64],
            )
        )

    def _stop(self, state: RunState) -> Outcome:
        why = self._held.why
        try:
            last = self._instance.stop_training(self._claim, state.run_id, keep=why != "canceled")
        except (Unreachable, NotDone, EnlightError) as error:
            # Its lease ends then.
            _log.warning("a run could not be stopped: %s", error, extra={"run_id": state.run_id})
            last = state
        self._note_model(last)
        if self._held.why in ("lost", "unheard"):
            return Lost()
        if why == "canceled":
            self.undo()
            return Canceled(_metrics(last))
        if last.status == "succeeded":
            return self._outcome(last)
        return GivenBack("the worker is being stopped", counts=False)

    def _without_a_run(self) -> Outcome:
        match self._held.why:
            case "lost" | "unheard":
                return Lost()
            case "canceled":
                return Canceled()
            case _:
                return GivenBack("the worker is being stopped", counts=False)

    def _note_model(self, state: RunState) -> None:
        if state.status == "succeeded" and state.version is not None:
            self._published = state.run_id

    def _outcome(self, state: RunState) -> Outcome:
        self._note_model(state)
        if state.status == "succeeded" and state.version is not None:
            model = TrainedModel(
                model_id=state.model_id,
                version=state.version,
                method=state.method,
                base=state.base_model,
                learning_rate=state.learning_rate_used,
                steps=state.total,
            )
            return Succeeded(Output(model=model), _metrics(state))
        if state.error_kind in _HOPELESS:
            return Failed(state.error_kind, state.error or "the training failed", _metrics(state))
        if state.error_kind == "storage-full":
            # Perhaps the run's own checkpoints are what fills it: counted, so that it is not tried for ever.
            reason = state.error or "there is no room left on the disk"
            return GivenBack(reason, counts=True, pause_s=OWN_FAULT_PAUSE_S)
        return GivenBack(state.error or f"the run was {state.status} at the instance", counts=True)


def _metrics(state: RunState) -> dict[str, float]:
    """`gpu_seconds`: for how long the run had the instance, in this attempt."""
    metrics: dict[str, float] = {"steps": float(state.step)}
    if state.loss is not None:
        metrics["loss"] = state.loss
    if state.started_at is not None and state.completed_at is not None:
        began, ended = (datetime.fromisoformat(text) for text in (state.started_at, state.completed_at))
        metrics["gpu_seconds"] = round((ended - began).total_seconds(), 3)
    return metrics
