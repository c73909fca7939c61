"""One lane for each kind of job: it claims while there is room, and sees each job to its end."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Protocol

from enlight_common.errors import EnlightError
from enlight_common.schemas.claims import Claim, GpuKind

from dreambooth_api.worker.generation import GenerationWork
from dreambooth_api.worker.held import Held
from dreambooth_api.worker.http import Unreachable
from dreambooth_api.worker.instance import Instance, NotDone
from dreambooth_api.worker.main_api import MainApi, Poll, Refused, Unavailable
from dreambooth_api.worker.outcomes import Canceled, Failed, GivenBack, Lost, Outcome, Succeeded, report
from dreambooth_api.worker.training import TrainingWork
from dreambooth_api.worker.transfers import Transfers

_log = logging.getLogger(__name__)

_READY_S = 1.0  # between two looks at an instance that is not ready
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
_REFUSED_S = 30.0  # a revoked key: somebody has to do something


class Work(Protocol):
    """The work at one job."""

    def run(self) -> Outcome: ...

    def settle(self) -> None:
        """The outcome was taken: what was kept in case it would not be can go."""
        ...

    def undo(self) -> None:
        """Leave no trace: the job was another's when its outcome was told."""
        ...


_WORK: dict[GpuKind, Callable[[Held, Instance, Transfers], Work]] = {
    "training": TrainingWork,
    "generation": GenerationWork,
}


class Lane:
    """`width` jobs of one kind at once. `start` it, then `leave` it once."""

    def __init__(
        self,
        kind: GpuKind,
        width: int,
        api: MainApi,
        instance: Instance,
        *,
        base_models: list[str],
        wait_s: float,
        silence_s: float,
    ) -> None:
        self.kind = kind
        self.counts = {"succeeded": 0, "failed": 0, "canceled": 0, "released": 0, "lost": 0}
        self._width, self._api, self._instance = width, api, instance
        self._base_models, self._wait_s, self._silence_s = base_models, wait_s, silence_s
        self._transfers = Transfers()
        self._leaving = threading.Event()
        self._changed = threading.Condition()
        self._jobs: list[Held] = []
        self._poll: Poll | None = None
        self._not_before = 0.0
        self._idle_since = time.monotonic()
        self._claiming = threading.Thread(target=self._claim_forever, name=f"claim {kind}", daemon=True)

    def start(self) -> None:
        self._claiming.start()

    @property
    def jobs(self) -> list[str]:
        """The ids of the jobs that are being worked at."""
        with self._changed:
            return [held.claim.job_id for held in self._jobs]

    @property
    def idle_s(self) -> float:
        """For how long there was nothing to do, in seconds."""
        with self._changed:
            return 0.0 if self._jobs else time.monotonic() - self._idle_since

    def stop_claiming(self) -> None:
        """A job that is on its way is still taken, and given back."""
        self._leaving.set()
        with self._changed:
            self._changed.notify_all()
            if self._poll is not None:
                self._poll.wait_no_longer()

    def leave(self, grace_s: float) -> None:
        """Let what is being done end within `grace_s`, give back the rest, and return when all is told."""
        self.stop_claiming()
        self._claiming.join()
        with self._changed:
            self._changed.wait_for(lambda: not self._jobs, grace_s)
            left = list(self._jobs)
        for held in left:
            held.stop("leaving")
        with self._changed:
            self._changed.wait_for(lambda: not self._jobs)

    def _claim_forever(self) -> None:
        failures = 0
        while not self._leaving.is_set():
            try:
                claim = self._claim() if self._wait_for_room() else None
                if claim is not None:
                    self._begin(claim)
            except Unavailable as error:
                failures += 1
                longest = min(_FIRST_PAUSE_S * 2.0 ** (failures - 1), _LONGEST_PAUSE_S)
                pause_s = max(longest * random.uniform(0.5, 1.0), error.retry_after or 0.0)
                _log.warning("main-api is away: %s", error, extra={"kind": self.kind})
                self._leaving.wait(pause_s)
            except Refused as error:
                _log.error("main-api refuses this worker: %s", error, extra={"kind": self.kind})
                self._leaving.wait(_REFUSED_S)
            except Exception:
                _log.exception("claiming failed", extra={"kind": self.kind})
                self._leaving.wait(_LONGEST_PAUSE_S)
            else:
                failures = 0

    def _wait_for_room(self) -> bool:
        """Until a job could be done at once; False when there will be none any more."""
        while not self._leaving.is_set():
            with self._changed:
                self._changed.wait_for(lambda: len(self._jobs) < self._width or self._leaving.is_set())
            pause_s = self._not_before - time.monotonic()
            if pause_s > 0:
                self._leaving.wait(pause_s)
            elif self._is_served():
                return not self._leaving.is_set()
            else:
                with self._changed:
                    self._idle_since = time.monotonic()  # an instance that still loads is no lack of jobs
                self._leaving.wait(_READY_S)
        return False

    def _is_served(self) -> bool:
        """Whether the instance is ready, and it is known what for."""
        if not self._instance.is_ready():
            return False
        if not self._base_models:
            try:
                self._base_models = [self._instance.base_model()]
            except (Unreachable, NotDone, EnlightError) as error:
                _log.warning("the instance does not tell its base model: %s", error)
                return False
        return True

    def _claim(self) -> Claim | None:
        poll = self._api.poll([self.kind], self._base_models, self._wait_s)
        with self._changed:
            self._poll = poll
        try:
            return poll.run()
        finally:
            with self._changed:
                self._poll = None

    def _begin(self, claim: Claim) -> None:
        held = Held(self._api, claim, self._silence_s)
        with self._changed:
            self._jobs.append(held)
        if self._leaving.is_set():
            held.stop("leaving")
        work = threading.Thread(target=self._do, args=(held,), name=f"job {claim.job_id}", daemon=True)
        try:
            work.start()
        except RuntimeError:  # no more threads: its lease ends
            with self._changed:
                self._jobs.remove(held)
            raise

    def _do(self, held: Held) -> None:
        claim = held.claim
        about = {"job_id": claim.job_id, "kind": claim.kind, "attempt": claim.attempt}
        about |= {"request_id": claim.request_id, "traceparent": claim.traceparent}
        _log.info("a job begins", extra=about)
        started = time.monotonic()
        outcome: Outcome = GivenBack("the worker failed", counts=True, pause_s=_FIRST_PAUSE_S)
        try:
            with held:
                work = _WORK[self.kind](held, self._instance, self._transfers)
                try:
                    outcome = work.run()
                except Exception:
                    _log.exception("the work at a job failed", extra=about)
                verdict = report(held, outcome)
            if verdict == "taken":
                work.settle()
            elif verdict == "lost":
                work.undo()
            if verdict != "taken":
                outcome = Lost()
        finally:
            self._end(held, outcome)
        seconds = round(time.monotonic() - started, 2)
        _log.info("a job ends: %s", _name(outcome), extra={**about, "seconds": seconds})

    def _end(self, held: Held, outcome: Outcome) -> None:
        with self._changed:
            self.counts[_name(outcome)] += 1
            if isinstance(outcome, GivenBack) and outcome.pause_s:
                pause_s = min(outcome.pause_s, _LONGEST_PAUSE_S) * random.uniform(1.0, 1.2)
                self._not_before = time.monotonic() + pause_s
            self._jobs.remove(held)
            self._idle_since = time.monotonic()
            self._changed.notify_all()


def _name(outcome: Outcome) -> str:
    match outcome:
        case Succeeded():
            return "succeeded"
        case Failed():
            return "failed"
        case Canceled():
            return "canceled"
        case GivenBack():
            return "released"
        case Lost():
            return "lost"
