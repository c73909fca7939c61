"""How the work at a job may end, and how that is reported."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from enlight_common.schemas.claims import Completion, JobError, Output, Release

from dreambooth_api.worker.held import Held
from dreambooth_api.worker.http import Answer
from dreambooth_api.worker.main_api import LeaseLost, Refused, Unavailable, patiently

_log = logging.getLogger(__name__)

_LEAVING_S = 10.0  # for the last word of a worker that is being stopped, should main-api be away
_BUSY_STATUSES = (408, 429, 503)


@dataclass(frozen=True)
class Succeeded:
    output: Output
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    """It would fail again anywhere. `kind` is the slug of a problem's type."""

    kind: str
    message: str
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Canceled:
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class GivenBack:
    """Somebody else may have more luck. With `counts` it was an attempt, of which a job has a few.
    `pause_s` is how long there is no sense in claiming another one here.
    """

    reason: str
    counts: bool
    pause_s: float = 0.0


@dataclass(frozen=True)
class Lost:
    """The job is another worker's: there is nothing to say."""


Outcome = Succeeded | Failed | Canceled | GivenBack | Lost


def of_refusal(answer: Answer) -> GivenBack | Failed:
    """What it means for a job that the instance does not do it."""
    kind, message = answer.problem
    if answer.status in _BUSY_STATUSES:
        return GivenBack(f"the instance is busy: {message}", counts=False, pause_s=answer.retry_after or 2.0)
    if 400 <= answer.status < 500:
        return Failed(kind, message)
    return GivenBack(f"the instance failed: {message}", counts=True, pause_s=2.0)


def report(held: Held, outcome: Outcome) -> bool:
    """Tell main-api; whether it took it. What it does not take was done for nothing, and leaves no trace."""
    if isinstance(outcome, Lost):
        return False
    until = time.monotonic() + (_LEAVING_S if held.why == "leaving" else held.silence_s)
    job_id = held.claim.job_id
    try:
        if isinstance(outcome, GivenBack):
            release = Release(fencing=held.claim.fencing, reason=outcome.reason[:500], counts=outcome.counts)
            patiently(lambda: held.api.release(job_id, release), until)
        else:
            completion = _completion(held, outcome)
            patiently(lambda: held.api.complete(job_id, completion), until)
    except LeaseLost:
        _log.warning("a job was another's before its end was told", extra={"job_id": job_id})
        return False
    except (Refused, Unavailable) as error:
        _log.error("a job's end could not be told: %s", error, extra={"job_id": job_id})
        return False
    return True


def _completion(held: Held, outcome: Succeeded | Failed | Canceled) -> Completion:
    fencing, notes = held.claim.fencing, held.take_notes()
    match outcome:
        case Succeeded(output, metrics):
            return Completion(fencing=fencing, status="succeeded", output=output, metrics=metrics, logs=notes)
        case Failed(kind, message, metrics):
            error = JobError(type=kind, message=message[:2000])
            return Completion(fencing=fencing, status="failed", error=error, metrics=metrics, logs=notes)
        case Canceled(metrics):
            return Completion(fencing=fencing, status="canceled", metrics=metrics, logs=notes)
