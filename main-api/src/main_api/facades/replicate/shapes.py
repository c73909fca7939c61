"""Jobs in Replicate's shape: generations are predictions, trainings are trainings."""

from __future__ import annotations

from typing import Any

from main_api.clock import rfc3339
from main_api.jobs.job import Job
from main_api.jobs.view import JobView

PREFIX = "/replicate/v1"
_STATUSES = {"queued": "starting"}


def replicate_shape(job: Job, view: JobView, public_url: str) -> dict[str, Any]:
    """A prediction, or a training."""
    shown = view.show(job)
    kind = "trainings" if job.kind == "training" else "predictions"
    address = f"{public_url.rstrip('/')}{PREFIX}/{kind}/{job.id}"
    found = {
        "id": job.id,
        "model": job.origin.get("model", ""),
        "version": job.origin.get("version", ""),
        "input": job.origin.get("input", shown["input"]),
        "output": _output(job, shown),
        "logs": _logs(job),
        "error": (job.error or {}).get("message"),
        "status": _STATUSES.get(job.status, job.status),
        "source": "api",
        "data_removed": False,
        "created_at": rfc3339(job.created_at),
        "started_at": rfc3339(job.started_at),
        "completed_at": rfc3339(job.completed_at),
        "metrics": _metrics(job),
        "urls": {"get": address, "cancel": f"{address}/cancel"},
    }
    if job.kind == "training":
        found["destination"] = f"{job.tenant}/{job.models[0]}" if job.models else None
    return found


def version_id(model_id: str, version: str) -> str:
    """What names a version of a trained model on its own: Replicate's versions are known without a model."""
    return f"{model_id}@{version}"


def _output(job: Job, shown: dict[str, Any]) -> Any:
    if job.kind == "training":
        model = (job.output or {}).get("model")
        if model is None:
            return None
        version = version_id(model["model_id"], model["version"])
        return {"version": f"{job.tenant}/{model['model_id']}:{version}", "weights": None}
    pictures = (shown["output"] or {}).get("pictures", [])
    return [one["url"] for one in pictures] or None


def _logs(job: Job) -> str:
    """With a last line in tqdm's manner: Replicate's client reads the progress from there."""
    lines = list(job.logs)
    progress = job.progress or {}
    step, total = progress.get("step"), progress.get("total")
    if step is not None and total:
        percent = int(100 * progress.get("fraction", step / total))
        bar = "█" * (percent // 10)
        lines.append(f"{percent}%|{bar:<10}| {step}/{total}")
    return "\n".join(lines)


def _metrics(job: Job) -> dict[str, float]:
    found = dict(job.metrics)
    if job.started_at is not None and job.completed_at is not None:
        found["predict_time"] = round((job.completed_at - job.started_at) / 1000, 3)
    return found
