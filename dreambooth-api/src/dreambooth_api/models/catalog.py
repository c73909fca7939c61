"""What is in the object store: `models/<tenant>/<model id>/<version>/<file>`, there once its `model.json` is.

The manifest is written last and deleted first, so that what was cut short is no model. What is left of it is
swept up a day later.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from enlight_common.errors import Conflict, InvalidField, NoSuchObject, StoreCorrupt, UnknownModel
from enlight_common.ids import check_id
from enlight_common.storage import ObjectStore
from pydantic import ValidationError

from dreambooth_api.models.artifact import MANIFEST, Manifest, ModelKey, describe_files, new_version

_log = logging.getLogger(__name__)

_ROOT = "models"
_MAX_MANIFEST_BYTES = 4_000_000
_REMEMBERED_MANIFESTS = 4096
_READERS = 8  # manifests read at once for a listing
_ABANDONED_AFTER_S = 24 * 3600.0
#: What `new_version` makes; only such are ever swept up.
_OUR_VERSION = re.compile(r"\d{8}T\d{12}Z-[0-9a-f]{6}")


class Catalog:
    """Models in an object store. Every id is checked before it becomes part of a key."""

    def __init__(self, objects: ObjectStore) -> None:
        self.objects = objects
        self._manifests: OrderedDict[ModelKey, Manifest] = OrderedDict()
        self._remembering = threading.Lock()

    def versions(self, tenant: str, model_id: str) -> list[str]:
        """A model's versions, newest first. Raises StoreUnavailable."""
        prefix = f"{_ROOT}/{check_id(tenant, 'tenant')}/{check_id(model_id, 'model_id')}/"
        return sorted((key.version for key in self._keys(prefix)), reverse=True)

    def manifest(self, key: ModelKey) -> tuple[Manifest, bytes]:
        """The model's manifest, and its very bytes.

        Raises UnknownModel when it is not there, StoreCorrupt when it is not one, StoreUnavailable.
        """
        try:
            raw = self.objects.read(f"{prefix_of(key)}{MANIFEST}", _MAX_MANIFEST_BYTES)
        except NoSuchObject:
            raise UnknownModel("there is no model of this id") from None
        try:
            manifest = Manifest.model_validate_json(raw)
        except ValidationError as error:
            raise StoreCorrupt("the model's manifest cannot be read") from error
        if manifest.key != key:
            raise StoreCorrupt("the model's manifest is another model's")
        return manifest, raw

    def has(self, key: ModelKey) -> bool:
        """Whether the version is there. Raises StoreUnavailable."""
        return self.objects.exists(f"{prefix_of(key)}{MANIFEST}")

    def list(self, tenant: str) -> list[Manifest]:
        """All versions of a tenant's models, by model id and newest first; unreadable ones are left out.

        Raises StoreUnavailable.
        """
        keys = sorted(
            self._keys(f"{_ROOT}/{check_id(tenant, 'tenant')}/"), key=lambda key: key.version, reverse=True
        )
        keys.sort(key=lambda key: key.model_id)
        with ThreadPoolExecutor(_READERS) as readers:
            found = list(readers.map(self._remembered, keys))
        return [manifest for manifest in found if manifest is not None]

    def publish(self, folder: Path, manifest: Manifest) -> Manifest:
        """Upload the files of `folder` and then the manifest, with its `version` and `files` filled in.

        A second call with the same version finishes what a first one began.
        Raises Conflict when that version is there already, InvalidField for a file that has no place in a
        model, StoreUnavailable, StorageFull.
        """
        version = check_id(manifest.version or new_version(), "version")
        key = ModelKey(check_id(manifest.tenant, "tenant"), check_id(manifest.model_id, "model_id"), version)
        if self.has(key):
            raise Conflict("this version of the model is there already")
        try:
            files = describe_files(folder)
        except ValueError as error:
            raise InvalidField("folder", str(error)) from error
        complete = manifest.model_copy(update={"version": version, "files": files})
        for entry in files:
            with (folder / entry.path).open("rb") as file:
                self.objects.put(f"{prefix_of(key)}{entry.path}", file, entry.size)
        raw = complete.to_bytes()
        self.objects.put(f"{prefix_of(key)}{MANIFEST}", io.BytesIO(raw), len(raw))
        return complete

    def delete(self, key: ModelKey) -> None:
        """Delete one version, the manifest first. Raises StoreUnavailable."""
        with self._remembering:
            self._manifests.pop(key, None)
        prefix = prefix_of(key)
        self.objects.delete(f"{prefix}{MANIFEST}")
        for found in list(self.objects.list(prefix)):
            self.objects.delete(found.key)

    def sweep(self, older_than_s: float = _ABANDONED_AFTER_S) -> int:
        """Delete versions of ours without a manifest that nobody added to for so long; how many there were.

        Whatever else lies in the store is left alone. Raises StoreUnavailable.
        """
        newest: dict[ModelKey, float] = {}
        whole: set[ModelKey] = set()
        for found in self.objects.list(f"{_ROOT}/"):
            key = _key_of(found.key)
            if key is not None and _OUR_VERSION.fullmatch(key.version):
                newest[key] = max(newest.get(key, 0.0), found.modified)
                if found.key == f"{prefix_of(key)}{MANIFEST}":
                    whole.add(key)
        before = time.time() - older_than_s
        left = [key for key, modified in newest.items() if key not in whole and modified < before]
        return sum(self._sweep(key, before) for key in left)

    def _sweep(self, key: ModelKey, before: float) -> bool:
        # Listed again: the first listing may have taken minutes.
        files = list(self.objects.list(prefix_of(key)))
        if self.has(key) or any(file.modified >= before for file in files):
            return False
        for file in files:
            self.objects.delete(file.key)
        return bool(files)

    def _keys(self, prefix: str) -> Iterator[ModelKey]:
        for found in self.objects.list(prefix):
            key = _key_of(found.key)
            if key is not None and found.key == f"{prefix_of(key)}{MANIFEST}":
                yield key

    def _remembered(self, key: ModelKey) -> Manifest | None:
        """A version's manifest never changes, so it is read once."""
        with self._remembering:
            known = self._manifests.get(key)
        if known is not None:
            return known
        try:
            manifest, _ = self.manifest(key)
        except (UnknownModel, StoreCorrupt) as error:
            _log.warning("a model is not listed: %s", error.detail, extra={"model_id": key.model_id})
            return None
        with self._remembering:
            self._manifests[key] = manifest
            while len(self._manifests) > _REMEMBERED_MANIFESTS:
                self._manifests.popitem(last=False)
        return manifest


def _key_of(name: str) -> ModelKey | None:
    """Which version an object belongs to, if any."""
    parts = name.split("/")
    if len(parts) < 5 or parts[0] != _ROOT:
        return None
    try:
        return ModelKey(*(check_id(part, "id") for part in parts[1:4]))
    except InvalidField:
        return None


def prefix_of(key: ModelKey) -> str:
    """What the keys of a version's objects begin with."""
    return f"{_ROOT}/{key.tenant}/{key.model_id}/{key.version}/"


def digest_of(raw: bytes) -> str:
    """SHA-256 of a manifest's bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(raw).hexdigest()
