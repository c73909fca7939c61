"""Which models a tenant has: by the records, and by the model store for those that are older than them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from enlight_common.errors import NoSuchObject, StoreCorrupt, UnknownModel, WrongBaseModel
from enlight_common.ids import check_id
from enlight_common.storage import ObjectStore

from main_api.cache import Cache
from main_api.clock import now_ms
from main_api.records.audit import Audit
from main_api.records.models import AVAILABLE, Models

_MAX_MANIFEST_BYTES = 4_000_000
MANIFEST = "model.json"


class ModelCatalog:
    def __init__(self, records: Models, store: ObjectStore, cache: Cache, audit: Audit) -> None:
        self.records = records
        self._store = store
        self._cache = cache
        self._audit = audit

    def get(self, tenant: str, model_id: str) -> dict[str, Any]:
        """The model's record. Raises UnknownModel."""
        found = self._cache.read(_name(tenant, model_id), lambda: self._load(tenant, model_id))
        if found is None or found["state"] != AVAILABLE:
            raise UnknownModel("there is no model of this id")
        return found

    def forget(self, tenant: str, model_id: str) -> None:
        """To be called after the model's record was changed."""
        self._cache.forget(_name(tenant, model_id))

    def base_of(self, tenant: str, named: Sequence[str]) -> str | None:
        """The base model that all of `named`, each `id` or `id@version`, belong to; None for none of them.

        Raises UnknownModel, WrongBaseModel.
        """
        bases = {self._base(tenant, name) for name in named}
        if len(bases) > 1:
            raise WrongBaseModel("the models belong to different base models", field="models")
        return bases.pop() if bases else None

    def _base(self, tenant: str, name: str) -> str | None:
        model_id, _, version = name.partition("@")
        model = self.get(tenant, model_id)
        versions = {one["version"]: one for one in model["versions"]}
        if version and version not in versions:
            raise UnknownModel("the model has no such version")
        base: str | None = versions[version]["base_model"] if version else model["base_model"]
        return base

    def take_down(self, tenant: str, model_id: str, version: str, job_id: str | None) -> dict[str, Any]:
        """Record a version that a training stored; what the model's manifest says of it.

        Raises NoSuchObject when the store has no manifest for it, StoreCorrupt, StoreUnavailable;
        UnknownModel where the model is being deleted.
        """
        found = self.manifest(tenant, model_id, version)
        described = _described(found, version, job_id)
        adding = self.records.add_version(tenant, model_id, described)
        if adding == "deleting":
            raise UnknownModel("the model is being deleted")
        if adding == "added":
            actor = f"job:{job_id}" if job_id is not None else "model-store"
            self._audit.record("model.version", tenant=tenant, actor=actor, target=model_id, version=version)
        self.forget(tenant, model_id)
        return described

    def manifest(self, tenant: str, model_id: str, version: str) -> dict[str, Any]:
        """What the store has as the version's `model.json`. Raises NoSuchObject, StoreCorrupt."""
        key = f"{prefix_of(tenant, model_id)}{check_id(version, 'version')}/{MANIFEST}"
        try:
            manifest = json.loads(self._store.read(key, _MAX_MANIFEST_BYTES))
        except ValueError as error:
            raise StoreCorrupt("the model's manifest cannot be read") from error
        if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), list):
            raise StoreCorrupt("the model's manifest cannot be read")
        return manifest

    def _load(self, tenant: str, model_id: str) -> dict[str, Any] | None:
        return self.records.get(tenant, model_id) or self._adopt(tenant, model_id)

    def _adopt(self, tenant: str, model_id: str) -> dict[str, Any] | None:
        """Take down a model that only the store knows of: trained past main-api, or before it."""
        prefix = prefix_of(tenant, model_id)
        for found in self._store.list(prefix):
            version, _, name = found.key.removeprefix(prefix).partition("/")
            if name == MANIFEST:
                try:
                    self.take_down(tenant, model_id, version, None)
                except (NoSuchObject, StoreCorrupt, UnknownModel):
                    continue
        return self.records.get(tenant, model_id)


def prefix_of(tenant: str, model_id: str) -> str:
    """What the keys of a model's objects in the model store begin with."""
    return f"models/{check_id(tenant, 'tenant')}/{check_id(model_id, 'model_id')}/"


def _described(manifest: dict[str, Any], version: str, job_id: str | None) -> dict[str, Any]:
    base = manifest.get("base")
    files = [one for one in manifest["files"] if isinstance(one, dict)]
    return {
        "version": version,
        "job_id": job_id,
        "method": manifest.get("method"),
        "base_model": base.get("name") if isinstance(base, dict) else None,
        "instance_prompt": manifest.get("instance_prompt"),
        "rank": manifest.get("rank"),
        "bytes": sum(int(one.get("size", 0)) for one in files),
        "created_at": now_ms(),
    }


def _name(tenant: str, model_id: str) -> str:
    return f"model:{tenant}/{model_id}"
