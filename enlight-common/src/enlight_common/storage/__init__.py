"""Objects under keys, in a folder, at Google Cloud Storage, at S3, or behind signed URLs.

The only place that talks to an object store. Nothing here imports Flask; `enlight_common.web.objects` serves
a store to machines that hold no credentials of their own.
"""

from __future__ import annotations

import io

from enlight_common.storage.folder import FolderStore
from enlight_common.storage.interface import (
    Method,
    ObjectInfo,
    ObjectStore,
    StorageLimits,
    check_key,
    check_prefix,
)
from enlight_common.storage.opening import open_object_store
from enlight_common.storage.signing import UrlSigner

__all__ = [
    "FolderStore",
    "Method",
    "ObjectInfo",
    "ObjectStore",
    "StorageLimits",
    "UrlSigner",
    "check_key",
    "check_prefix",
    "open_object_store",
    "put_bytes",
]


def put_bytes(store: ObjectStore, key: str, data: bytes) -> None:
    """`store.put` for bytes in memory."""
    store.put(key, io.BytesIO(data), len(data))
