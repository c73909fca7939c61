"""How the work at a job may end, and how that is reported."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Literal

from enlight_common.schemas.claims import Completion, JobError, Output, Release

from dreambooth_api.worker.held import Held
from dreambooth_api.worker.http import Answer
from dreambooth_api.worker.main_api import LeaseLost, Refused, Unavailable, patiently

_log = logging.getLogger(__name__)

_BUSY_STATUSES = (408, 429, 503)
#: What a wrong setting of this machine (its key, its instance's address) or its full disk is answered with,
#: whatever the job. Not 413: a job too large for all instances would come back for ever.
_OWN_FAULTS = (401, 403, 405, 507)
#: A 404 that is about the job. Another one is about the address: no instance is there.
_MISSING = ("unknown-model", "no-such-object")
_TOO_LARGE = "model-too-large"  # for any machine's cache of that size, however often it is tried
OWN_FAULT_PAUSE_S = 30.0  # somebody has to do something


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
    """The job is another worker's, or may be: there is nothing to say."""


#: Whether main-api took an outcome; "untold": only it knows, and it did not say.
Verdict = Literal["taken", "lost", "untold"]
Outcome = Succeeded | Failed | Canceled | GivenBack | Lost


def of_refusal(answer: Answer) -> GivenBack | Failed:
    """What it means for a job that the instance does not do it."""
    kind, message = answer.problem
    if answer.status in _BUSY_STATUSES:
        return GivenBack(f"the instance is busy: {message}", counts=False, pause_s=answer.retry_after or 2.0)
    if kind == _TOO_LARGE:
        return Failed(kind, message)
    if answer.status in _OWN_FAULTS or (answer.status == 404 and kind not in _MISSING):
        return own_fault(f"the instance refuses all such jobs: {answer.status}, {message}")
    if 400 <= answer.status < 500:
        return Failed(kind, message)
    return GivenBack(f"the instance failed: {message}", counts=True, pause_s=2.0)


def own_fault(reason: str) -> GivenBack:
    """It is this machine that cannot do it: no job is to suffer for that."""
    _log.error("a job is given back, as this machine cannot do it: %s", reason)
    return GivenBack(reason, counts=False, pause_s=OWN_FAULT_PAUSE_S)


def report(held: Held, outcome: Outcome) -> Verdict:
    """Tell main-api; whether it took it."""
    if isinstance(outcome, Lost):
        return "untold" if held.why == "unheard" else "lost"
    pause = held.patience()
    job_id = held.claim.job_id
    try:
        if isinstance(outcome, GivenBack):
            release = Release(fencing=held.claim.fencing, reason=outcome.reason[:500], counts=outcome.counts)
            patiently(lambda: held.api.release(job_id, release), pause)
        else:
            completion = _completion(held, outcome)
            patiently(lambda: held.api.complete(job_id, completion), pause)
    except LeaseLost:
        _log.warning("a job was another's before its end was told", extra={"job_id": job_id})
        return "lost"
    except (Refused, Unavailable) as error:
        # It may have been taken all the same: the answer alone may be what was lost.
        _log.error("a job's end could not be told: %s", error, extra={"job_id": job_id})
        return "untold"
    return "taken"


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
