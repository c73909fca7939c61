"""Jobs of several steps: each step is a job of its own, and the chain's record says how far they are.

Whoever advances a chain reads it and its steps and does what is missing; a step's id is made of the chain's
and its number, so that however many do it at once, and however often, a step exists once.
"""

from __future__ import annotations

import logging
from typing import Any

from main_api.clock import now_ms
from main_api.ids import step_id
from main_api.jobs.cancellation import cancel
from main_api.jobs.hooks import Hooks
from main_api.jobs.job import Job
from main_api.jobs.leases import ended
from main_api.jobs.states import CANCELED, FAILED, PROCESSING, SUCCEEDED
from main_api.jobs.submission import Submission
from main_api.records.jobs import Jobs

log = logging.getLogger(__name__)
_ROUNDS = 100


class Chains:
    def __init__(self, jobs: Jobs, submission: Submission, hooks: Hooks) -> None:
        self._jobs = jobs
        self._submission = submission
        self._hooks = hooks

    def advance(self, chain_id: str) -> None:
        """Bring the chain to where its steps are, and begin the next one. Raises Unavailable, StorageFull."""
        for _ in range(_ROUNDS):
            chain = self._jobs.get(chain_id)
            if chain is None or chain.kind != "chain":
                return
            steps = self._steps(chain)
            if chain.terminal:
                self._cancel(steps)
                return
            if self._advanced(chain, steps):
                return
        raise AssertionError("a chain that changes all the time")

    def _steps(self, chain: Job) -> list[Job]:
        """The jobs of the steps that were begun."""
        found = []
        for index in range(len(chain.steps)):
            step = self._jobs.get(step_id(chain.id, index))
            if step is None:
                break
            found.append(step)
        return found

    def _cancel(self, steps: list[Job]) -> None:
        for step in steps:
            if not step.terminal:
                cancel(self._jobs, self._hooks, step)

    def _advanced(self, chain: Job, steps: list[Job]) -> bool:
        """Whether there is nothing more to do; else the chain is to be looked at again."""
        last = steps[-1] if steps else None
        if last is None or last.status == SUCCEEDED:
            if len(steps) == len(chain.steps):
                return self._end(chain, {"status": SUCCEEDED, "output": _output(steps)}, steps)
            keys = [one["key"] for one in last.pictures if not one.get("deleted")] if last else []
            if last is not None and not keys:
                message = f"step {len(steps)} ({last.kind}) left no picture for the next one"
                return self._end(chain, {"status": FAILED, "error": _error("no-picture", message)}, steps)
            if not self._note(chain, steps):
                return False
            self._submission.step(chain, len(steps), keys)
            # Once more: it may have been canceled before the step was there to be canceled.
            return False
        if last.status == FAILED:
            error = last.error or {}
            message = f"step {len(steps)} ({last.kind}) failed: {error.get('message', '')}"
            return self._end(
                chain,
                {"status": FAILED, "error": _error(str(error.get("type", "step-failed")), message)},
                steps,
            )
        if last.status == CANCELED:
            return self._end(chain, {"status": CANCELED}, steps)
        return self._note(chain, steps)

    def _note(self, chain: Job, steps: list[Job]) -> bool:
        """Write down how far it is."""
        values: dict[str, Any] = {}
        if chain.status != PROCESSING:
            values |= {"status": PROCESSING, "started_at": now_ms()}
        progress = _progress(chain, steps)
        if progress != chain.progress:
            values["progress"] = progress
        output = _output(steps)
        if output["steps"] and output != chain.output:
            values["output"] = output
            if len(output["steps"]) > len((chain.output or {}).get("steps", [])):
                values["pictures"] = _stamped(output["pictures"], chain.revision + 1)
        return not values or self._change(chain, values)

    def _end(self, chain: Job, values: dict[str, Any], steps: list[Job]) -> bool:
        if chain.status != PROCESSING:
            # A chain that waits cannot have succeeded.
            self._change(chain, {"status": PROCESSING, "started_at": now_ms()})
            return False
        now = now_ms()
        values = {**values, **ended(chain, now), "metrics": _metrics(steps), "progress": None}
        if values["status"] == SUCCEEDED:
            values["pictures"] = _stamped(values["output"]["pictures"], chain.revision + 1)
            values["progress"] = {"fraction": 1.0}
        return self._change(chain, values)

    def _change(self, chain: Job, values: dict[str, Any]) -> bool:
        changed = self._jobs.change(chain, values, where={"revision": chain.revision})
        if changed is not None:
            self._hooks.changed(changed)
        return changed is not None


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"type": kind, "message": message[:2000]}


def _progress(chain: Job, steps: list[Job]) -> dict[str, Any]:
    """Every step counts the same; how long each takes, nobody knows before."""
    count = len(chain.steps)
    done = sum(one.status == SUCCEEDED for one in steps)
    running = steps[-1] if len(steps) > done else None
    within = float((running.progress or {}).get("fraction", 0.0)) if running else 0.0
    phase = chain.steps[min(done, count - 1)]["kind"]
    fraction = round(min(1.0, (done + within) / count), 4)
    return {"fraction": fraction, "step": done, "total": count, "phase": phase}


def _output(steps: list[Job]) -> dict[str, Any]:
    """The last step's pictures, as far as there are some, and what each step made."""
    done = [one for one in steps if one.status == SUCCEEDED]
    made = [
        {"kind": one.kind, "job_id": one.id, "pictures": [_picture(picture) for picture in one.pictures]}
        for one in done
    ]
    settings = (done[0].output or {}).get("settings") if done else None
    return {"pictures": made[-1]["pictures"] if made else [], "settings": settings or {}, "steps": made}


def _stamped(pictures: list[dict[str, Any]], revision: int) -> list[dict[str, Any]]:
    """Pictures with the revision of the chain at which they came."""
    return [{**one, "revision": revision} for one in pictures]


def _picture(picture: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in picture.items() if name != "revision"}


def _metrics(steps: list[Job]) -> dict[str, float]:
    """Each step's, added up."""
    total: dict[str, float] = {}
    for step in steps:
        for name, value in step.metrics.items():
            total[name] = round(total.get(name, 0.0) + value, 3)
    return total
