"""What is to happen elsewhere when a job or a model changes: set up once, called by who makes the change."""

from __future__ import annotations

import logging
from collections.abc import Callable

from main_api.jobs.job import Job

log = logging.getLogger(__name__)
Hook = Callable[[Job], None]


class Hooks:
    """A hook may enqueue a message that names the record, and must be quick.

    It runs after the record was changed. One that fails is logged and no more: what it should have begun
    is found by the sweep, from the record.
    """

    def __init__(self) -> None:
        self.on_created: list[Hook] = []
        self.on_changed: list[Hook] = []
        self.on_terminal: list[Hook] = []
        #: Called with tenant and model id, once the record says `deleting`.
        self.on_model_deleting: list[Callable[[str, str], None]] = []

    def created(self, job: Job) -> None:
        self._call(self.on_created, job)

    def changed(self, job: Job) -> None:
        """Every change, the last one included."""
        self._call(self.on_changed, job)
        if job.terminal:
            self._call(self.on_terminal, job)

    def model_deleting(self, tenant: str, model_id: str) -> None:
        for hook in self.on_model_deleting:
            try:
                hook(tenant, model_id)
            except Exception:
                log.exception("a hook failed", extra={"model_id": model_id})

    def _call(self, hooks: list[Hook], job: Job) -> None:
        for hook in hooks:
            try:
                hook(job)
            except Exception:
                log.exception("a hook failed", extra={"job_id": job.id})
