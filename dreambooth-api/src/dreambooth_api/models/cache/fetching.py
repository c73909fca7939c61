"""From the object store, or from a training's folder, into a staged entry: every byte checked and synced."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from enlight_common.errors import InvalidField, NoSuchObject, StoreCorrupt, StoreUnavailable, UnknownModel
from enlight_common.files import disk_full_as_storage_full, fsync_folder, sha256_of
from enlight_common.storage import ObjectStore, check_key

from dreambooth_api.models.artifact import ALLOWED_SUFFIXES, MANIFEST, FileEntry, Manifest, ModelKey
from dreambooth_api.models.cache.entry import write_record
from dreambooth_api.models.catalog import digest_of, prefix_of

_FILES_AT_ONCE = 4
_ATTEMPTS = 2  # the store's own come on top: these are for bytes that arrived whole and are wrong


@dataclass(frozen=True)
class Source:
    """A model that can be fetched: its names, its manifest, and the manifest's very bytes."""

    key: ModelKey
    manifest: Manifest
    raw_manifest: bytes


def check_names(manifest: Manifest) -> None:
    """Refuse a manifest whose file names could leave the folder, do not go together, or are of a kind that is
    never kept. Raises StoreCorrupt.
    """
    names = {file.path for file in manifest.files}
    if len(names) != len(manifest.files):
        raise StoreCorrupt("the model's manifest names a file twice")
    for name in names:
        path = PurePosixPath(name)
        try:
            check_key(f"{prefix_of(manifest.key)}{name}")
        except InvalidField:
            raise StoreCorrupt("the model's manifest names a file outside the model") from None
        if path.suffix not in ALLOWED_SUFFIXES or name == MANIFEST:
            raise StoreCorrupt("the model's manifest names a file of a kind that is not kept")
        if any(str(above) in names for above in path.parents):
            raise StoreCorrupt("the model's manifest names a file that is also a folder")


def download(objects: ObjectStore, source: Source, staging: Path) -> int:
    """Fill `staging`, which has its folders, from the object store, and return how many bytes came.

    Raises UnknownModel when the model is deleted meanwhile, StoreCorrupt when the store's bytes are not the
    manifest's, StoreUnavailable, StorageFull.
    """

    def one(file: FileEntry) -> None:
        _download_file(objects, f"{prefix_of(source.key)}{file.path}", staging / file.path, file)

    try:
        with ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="fetch") as pool:
            # The first error counts; those of the other files are the same or of no interest.
            for _ in pool.map(one, source.manifest.files):
                pass
        seal(source, staging)
    except FileNotFoundError as error:
        raise StoreUnavailable("the model cache's folder was removed during a download") from error
    return sum(file.size for file in source.manifest.files)


def _download_file(objects: ObjectStore, key: str, path: Path, expected: FileEntry) -> None:
    for _ in range(_ATTEMPTS):
        with disk_full_as_storage_full(), path.open("w+b") as target:
            try:
                objects.get(key, target, size=expected.size)
            except NoSuchObject:
                raise UnknownModel("a file of the model is gone from the object store") from None
            target.flush()
            if _synced_digest(target.fileno(), path) == expected.sha256:
                return
    raise StoreCorrupt("the object store gave other bytes than the model's manifest promises")


def _synced_digest(descriptor: int, path: Path) -> str:
    """SHA-256 of a file that is on the disk then; the disk writes while the processor reads."""
    with ThreadPoolExecutor(1) as beside:
        synced = beside.submit(os.fsync, descriptor)
        digest = sha256_of(path)
        synced.result()
    return digest


def take(source: Source, folder: Path, staging: Path) -> None:
    """Fill `staging` from a folder that was just published. Hard links where they can be.

    Raises OSError, StorageFull.
    """
    with disk_full_as_storage_full():
        for file in source.manifest.files:
            target = staging / file.path
            try:
                os.link(folder / file.path, target)
            except OSError:
                shutil.copyfile(folder / file.path, target)
            with target.open("rb") as copied:
                os.fsync(copied.fileno())
        seal(source, staging)


def seal(source: Source, staging: Path) -> None:
    """Write the manifest and the record, when the files are there and right."""
    with disk_full_as_storage_full():
        with (staging / MANIFEST).open("wb") as file:
            file.write(source.raw_manifest)
            file.flush()
            os.fsync(file.fileno())
        write_record(staging, source.manifest, digest_of(source.raw_manifest))
        for path in staging.rglob("*"):
            if path.is_dir():
                fsync_folder(path)
