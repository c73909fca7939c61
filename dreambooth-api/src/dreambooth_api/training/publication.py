"""From a finished run to a model in the store, once."""

from __future__ import annotations

from enlight_common.errors import Conflict, UnknownModel

from dreambooth_api.models.artifact import Artifact, BaseReference, Manifest, now
from dreambooth_api.models.store import ModelStore
from dreambooth_api.training.messages import Finished
from dreambooth_api.training.workspace import Job, Workspace


def manifest_of(job: Job, finished: Finished, version: str = "") -> Manifest:
    """What `model.json` says of the result, but for its files."""
    options = job.options
    adapter = options.method == "lora"
    return Manifest(
        tenant=job.tenant,
        model_id=job.model_id,
        version=version,
        method=options.method,
        base=BaseReference(name=options.base_model, revision=finished.base_revision),
        rank=options.rank if adapter else None,
        alpha=options.alpha if adapter else None,
        instance_prompt=options.instance_prompt,
        training={"photos": len(job.framings), **options.model_dump(mode="json")},
        metrics=finished.metrics,
        created_at=now(),
    )


def publish(store: ModelStore, workspace: Workspace, job: Job, finished: Finished) -> Artifact:
    """Keep the result, under a version name that is written down before: a second call finds the first
    one's.
    """
    version = workspace.plan_version()
    try:
        return store.publish(workspace.result, manifest_of(job, finished, version))
    except Conflict:
        with store.open(f"{job.model_id}@{version}", job.tenant) as artifact:
            return artifact


def was_published(store: ModelStore, workspace: Workspace, tenant: str, model_id: str) -> str | None:
    """The version that the workspace's result was published as before its owner died, if it came so far."""
    version = workspace.planned_version()
    if version is None:
        return None
    try:
        with store.open(f"{model_id}@{version}", tenant):
            return version
    except UnknownModel:
        return None
