"""Where trained models are found: the object store that has them all, and the cache that is read from."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from enlight_common.errors import InvalidField, StoreUnavailable, UnknownModel
from enlight_common.ids import check_id
from enlight_common.storage import open_object_store

from dreambooth_api.models.artifact import Artifact, Manifest, ModelKey
from dreambooth_api.models.cache.inventory import CachedModel
from dreambooth_api.models.cache.model_cache import ModelCache
from dreambooth_api.models.catalog import Catalog
from dreambooth_api.models.versions import FRESH_S, KnownVersions

_log = logging.getLogger(__name__)


class ModelStore:
    """Models by id, or `id@version`, for one tenant at a time."""

    def __init__(self, catalog: Catalog, cache: ModelCache, *, fresh_s: float = FRESH_S) -> None:
        self.catalog, self.cache = catalog, cache
        self.known = KnownVersions(catalog, cache, fresh_s)

    @contextlib.contextmanager
    def open(self, model_id: str, tenant: str = "default") -> Iterator[Artifact]:
        """The newest version, or that of `id@version`: its files in a folder, whole until the context ends.

        Raises UnknownModel, InvalidField, StoreUnavailable, StoreCorrupt, StorageFull, TimedOut.
        """
        with contextlib.ExitStack() as stack:
            try:
                artifact = stack.enter_context(self.cache.open(self.find(model_id, tenant)))
            except UnknownModel:
                # Deleted since it was last asked for; there may be an older version.
                self.known.forget(tenant, _split(model_id)[0])
                artifact = stack.enter_context(self.cache.open(self.find(model_id, tenant)))
            yield artifact

    def find(self, model_id: str, tenant: str = "default") -> ModelKey:
        """Which version an id, or `id@version`, means now.

        Raises UnknownModel, InvalidField, StoreUnavailable when the object store is needed to tell.
        """
        name, version = _split(model_id)
        check_id(tenant, "tenant")
        known = self.known.of(tenant, name)
        for found in known.names:
            if version in (None, found):
                return ModelKey(tenant, name, found)
        if not known.certain:
            raise StoreUnavailable("the object store cannot be asked for this model")
        raise UnknownModel("there is no model of this id")

    def publish(self, folder: Path, manifest: Manifest) -> Manifest:
        """Put `folder` into the object store under the manifest's names, and into the cache.

        `manifest.version` may be empty, `files` is filled in here; the complete manifest is returned.
        Raises Conflict when that version is there already, InvalidField for a file that has no place in a
        model, StoreUnavailable, StorageFull.
        """
        complete = self.catalog.publish(folder, manifest)
        self.known.forget(complete.tenant, complete.model_id)
        self.cache.take(folder, complete)
        return complete

    def has(self, key: ModelKey) -> bool:
        """Whether the object store has this version. Raises StoreUnavailable."""
        return self.catalog.has(key)

    def list(self, tenant: str = "default") -> Sequence[Manifest]:
        """All versions of a tenant's models, by model id and newest first. Raises StoreUnavailable."""
        return self.catalog.list(tenant)

    def cached(self, tenant: str = "default") -> Sequence[CachedModel]:
        """What of a tenant's is in the cache."""
        check_id(tenant, "tenant")
        return [model for model in self.cache.models() if model.key.tenant == tenant]

    def delete(self, model_id: str, tenant: str = "default") -> Sequence[ModelKey]:
        """Delete all versions, or that of `id@version`, from the object store and from this machine's cache,
        and tell which. Who has one open keeps it until then.

        Raises UnknownModel when there is none, StoreUnavailable; what was deleted before that is gone.
        """
        name, version = _split(model_id)
        names = self.catalog.versions(tenant, name)
        keys = [ModelKey(tenant, name, found) for found in names if version in (None, found)]
        for key in keys:
            try:
                self.catalog.delete(key)
            finally:
                # Its manifest goes first: where the rest failed, it is no model all the same.
                self.cache.remove(key)
                self.known.forget(tenant, name)
        if not keys:
            raise UnknownModel("there is no model of this id")
        return keys


def open_store(url: str, cache_folder: Path, cache_max_bytes: int) -> ModelStore:
    """The store behind a file://, gs://, s3:// or enlight+https:// URL, with its cache in a folder, for a
    service: what killed ones left in the cache is cleared, and the bound kept from now on.

    Raises InvalidField("MODEL_STORE_URL").
    """
    store = open_store_as_it_is(url, cache_folder, cache_max_bytes)
    store.cache.repair()
    with contextlib.suppress(OSError):
        store.cache.space.note_bound()
    return store


def open_store_as_it_is(url: str, cache_folder: Path, cache_max_bytes: int) -> ModelStore:
    """`open_store` for who only looks: nothing in the cache changes."""
    catalog = Catalog(open_object_store(url, field="MODEL_STORE_URL"))
    return ModelStore(catalog, ModelCache(cache_folder, catalog, cache_max_bytes))


def _split(model_id: str) -> tuple[str, str | None]:
    """Name and version of `id` or `id@version`. Raises InvalidField."""
    if not isinstance(model_id, str):
        raise InvalidField("model_id", "must be a string")
    name, at, version = model_id.partition("@")
    check_id(name, "model_id")
    return name, check_id(version, "model_id") if at else None
