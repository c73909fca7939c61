"""From a finished run to a model in the store, once."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Protocol

from enlight_common.errors import Conflict

from dreambooth_api.models.artifact import BaseReference, Manifest, ModelKey, now
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


class Publisher(Protocol):
    """A `Catalog`, or a `ModelStore` that keeps what is published at hand, too."""

    def publish(self, folder: Path, manifest: Manifest) -> Manifest: ...

    def has(self, key: ModelKey) -> bool: ...


def publish(store: Publisher, workspace: Workspace, job: Job, finished: Finished) -> str:
    """Keep the result, under a version name that is written down before: a second call finds the first
    one's. The version is returned.
    """
    version = workspace.plan_version()
    with contextlib.suppress(Conflict):  # published before, by an owner that died then
        store.publish(workspace.result, manifest_of(job, finished, version))
    return version


def was_published(store: Publisher, workspace: Workspace, tenant: str, model_id: str) -> str | None:
    """The version that the workspace's result was published as before its owner died, if it came so far."""
    version = workspace.planned_version()
    if version is None:
        return None
    return version if store.has(ModelKey(tenant, model_id, version)) else None
