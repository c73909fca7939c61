"""Where trained models are found: the object store that has them all, and the cache that is read from."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from enlight_common.errors import InvalidField, StoreUnavailable, UnknownModel
from enlight_common.ids import check_id
from enlight_common.storage import open_object_store

from dreambooth_api.models.artifact import Artifact, Manifest, ModelKey
from dreambooth_api.models.cache.entry import LOCK
from dreambooth_api.models.cache.model_cache import ModelCache
from dreambooth_api.models.cache.space import CachedModel
from dreambooth_api.models.catalog import Catalog

_log = logging.getLogger(__name__)

#: How long another machine's new version or deletion may go unnoticed. On this machine both show at once.
_FRESH_S = 30.0
#: An unreachable store is asked again after this time; what is cached is served meanwhile.
_ASK_AGAIN_S = 5.0
#: Clocks of machines, and a listing that began before a model was published.
_RECENT_S = 120.0
_REMEMBERED = 4096


@dataclass(frozen=True)
class _Versions:
    """A model's versions in the object store, newest first, and until when (monotonic) that is believed.
    `certain` is off when the store could not be asked.
    """

    names: tuple[str, ...]
    until: float
    certain: bool = True


class ModelStore:
    """Models by id, or `id@version`, for one tenant at a time."""

    def __init__(self, catalog: Catalog, cache: ModelCache, *, fresh_s: float = _FRESH_S) -> None:
        self.catalog, self.cache = catalog, cache
        self._fresh_s = fresh_s
        self._known: OrderedDict[tuple[str, str], _Versions] = OrderedDict()
        self._knowing = threading.Lock()

    @contextlib.contextmanager
    def open(self, model_id: str, tenant: str = "default") -> Iterator[Artifact]:
        """The newest version, or that of `id@version`: its files in a folder, whole until the context ends.

        Raises UnknownModel, InvalidField, StoreUnavailable, StoreCorrupt, StorageFull, TimedOut.
        """
        with contextlib.ExitStack() as stack:
            try:
                key = self.find(model_id, tenant)
                artifact = stack.enter_context(self.cache.open(key))
            except UnknownModel:
                # Deleted since it was last asked for; there may be an older version.
                self._forget(model_id, tenant)
                key = self.find(model_id, tenant)
                artifact = stack.enter_context(self.cache.open(key))
            yield artifact

    def find(self, model_id: str, tenant: str = "default") -> ModelKey:
        """Which version an id, or `id@version`, means now.

        Raises UnknownModel, InvalidField, StoreUnavailable when the object store is needed to tell.
        """
        name, version = _split(model_id)
        check_id(tenant, "tenant")
        here = self.cache.space.versions(tenant, name)
        known = self._versions(tenant, name, here)
        if here and known.certain and here[0] > (known.names[0] if known.names else ""):
            # Another instance of this machine published it just now; or it was deleted elsewhere.
            self._forget(name, tenant)
            known = self._versions(tenant, name, here)
        names = known.names if known.certain else tuple(sorted({*known.names, *here}, reverse=True))
        if version is not None:
            names = tuple(found for found in names if found == version)
        if not names:
            raise UnknownModel("there is no model of this id")
        return ModelKey(tenant, name, names[0])

    def publish(self, folder: Path, manifest: Manifest) -> Manifest:
        """Put `folder` into the object store under the manifest's names, and into the cache.

        `manifest.version` may be empty, `files` is filled in here; the complete manifest is returned.
        Raises Conflict when that version is there already, InvalidField for a file that has no place in a
        model, StoreUnavailable, StorageFull.
        """
        complete = self.catalog.publish(folder, manifest)
        self.cache.take(folder, complete)
        self._forget(complete.model_id, complete.tenant)
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

        Raises UnknownModel when there is none, StoreUnavailable.
        """
        name, version = _split(model_id)
        names = self.catalog.versions(tenant, name)
        keys = [ModelKey(tenant, name, found) for found in names if version is None or found == version]
        for key in keys:
            self.catalog.delete(key)
            self.cache.remove(key)
        self._forget(name, tenant)
        if not keys:
            raise UnknownModel("there is no model of this id")
        return keys

    # -- what is known of the object store

    def _versions(self, tenant: str, name: str, here: Sequence[str]) -> _Versions:
        with self._knowing:
            known = self._known.get((tenant, name))
        if known is not None and time.monotonic() < known.until:
            return known
        asked_at = time.time()
        try:
            found = _Versions(tuple(self.catalog.versions(tenant, name)), time.monotonic() + self._fresh_s)
        except StoreUnavailable:
            if not here:
                raise
            _log.warning("the object store cannot be asked: cached models are served", exc_info=True)
            before = known.names if known is not None else ()
            found = _Versions(before, time.monotonic() + min(_ASK_AGAIN_S, self._fresh_s), certain=False)
        else:
            self._remove_deleted(tenant, name, here, found.names, asked_at)
        with self._knowing:
            self._known[tenant, name] = found
            self._known.move_to_end((tenant, name))
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return found

    def _remove_deleted(
        self, tenant: str, name: str, here: Sequence[str], there: Sequence[str], asked_at: float
    ) -> None:
        """Let go of entries that another machine deleted from the object store."""
        for version in set(here) - set(there):
            key = ModelKey(tenant, name, version)
            with contextlib.suppress(FileNotFoundError):
                taken_in = (self.cache.space.folder_of(key) / LOCK).stat().st_mtime
                if asked_at - taken_in > _RECENT_S:
                    self.cache.remove(key)

    def _forget(self, model_id: str, tenant: str) -> None:
        with self._knowing:
            self._known.pop((tenant, _split(model_id)[0]), None)


def open_store(url: str, cache_folder: Path, cache_max_bytes: int) -> ModelStore:
    """The store behind a file://, gs://, s3:// or enlight+https:// URL, with its cache in a folder.

    Raises InvalidField("MODEL_STORE_URL").
    """
    catalog = Catalog(open_object_store(url, field="MODEL_STORE_URL"))
    return ModelStore(catalog, ModelCache(cache_folder, catalog, cache_max_bytes))


def _split(model_id: str) -> tuple[str, str | None]:
    """Name and version of `id` or `id@version`. Raises InvalidField."""
    if not isinstance(model_id, str):
        raise InvalidField("model_id", "must be a string")
    name, at, version = model_id.partition("@")
    check_id(name, "model_id")
    return name, check_id(version, "model_id") if at else None
