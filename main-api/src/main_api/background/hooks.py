"""Which changes of a job somebody in the background is told of."""

from __future__ import annotations

from main_api.background.messages import Messages
from main_api.jobs.hooks import Hooks
from main_api.jobs.job import Job
from main_api.jobs.states import FORWARDED_KINDS


def connect(hooks: Hooks, messages: Messages) -> None:
    """Let `messages` tell of the changes that `hooks` are called with."""

    def created(job: Job) -> None:
        if job.kind in FORWARDED_KINDS:
            messages.send("forward", job.id)
        elif job.kind == "chain":
            messages.send("advance_chain", job.id)

    def changed(job: Job) -> None:
        if job.webhook is not None and _is_news(job, job.webhook["events"]):
            messages.send("notify", job.id)
        if job.parent is not None:
            messages.send("advance_chain", job.parent)

    def ended(job: Job) -> None:
        if job.kind == "chain":
            messages.send("advance_chain", job.id)  # its steps are to be canceled with it

    def deleting(tenant: str, model_id: str) -> None:
        messages.send("delete_model", f"{tenant}/{model_id}")

    hooks.on_created.append(created)
    hooks.on_changed.append(changed)
    hooks.on_terminal.append(ended)
    hooks.on_model_deleting.append(deleting)


def _is_news(job: Job, events: list[str]) -> bool:
    if job.terminal:
        return True
    started = job.status == "processing"
    return started and any(name in events for name in ("start", "output", "logs"))
