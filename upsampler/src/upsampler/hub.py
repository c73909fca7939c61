"""Models from the hub: fetched into the folder of weights, every byte checked, used once all of it was.

The hub tells the SHA-256 of what is in Git LFS, and Git's own SHA-1 of the rest; it is asked for them first,
of the commit that is then downloaded.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from enlight_common.errors import StoreCorrupt
from enlight_common.files import disk_full_as_storage_full, read_json, sha256_of, write_json
from enlight_common.locks import lock

from upsampler.models import Upscaler

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

log = logging.getLogger(__name__)

#: Written last, with the commit and the checksums: a folder without it is not used.
MARKER = "verified.json"
_CONFIGURATION = (".json", ".txt")
_WEIGHTS = ".safetensors"
_ANSWER_S = 10.0
_LOCK_S = 3600.0


class Unverifiable(StoreCorrupt):
    """A file has other bytes than the hub says, or the hub says nothing of them."""


@dataclass(frozen=True)
class HubFile:
    """A file as the hub tells of it: `sha256` of one in Git LFS, else `git_sha1`."""

    name: str
    size: int | None
    sha256: str | None
    git_sha1: str | None


def fetched(upscaler: Upscaler, folder: Path) -> Path | None:
    """Where under *folder* the model lies, complete and verified, or None."""
    markers = sorted(
        (folder / _folder_name(upscaler)).glob(f"{upscaler.revision or '*'}/{MARKER}"),
        key=lambda path: path.stat().st_mtime,
    )
    return markers[-1].parent if markers else None


def fetch(upscaler: Upscaler, folder: Path, *, endpoint: str | None = None) -> Path:
    """The folder of the model under *folder*, downloaded where it is not there yet; once for all processes.

    Only configuration and safetensors are. Without *endpoint* the hub is the one of HF_ENDPOINT.

    Raises:
        Unverifiable: a file is not what the hub says.
        OSError, huggingface_hub's errors: the hub cannot be reached or has no such model.
        StorageFull: there is no room for it.
    """
    found = fetched(upscaler, folder)
    if found is not None:
        return found
    target = folder / _folder_name(upscaler)
    target.mkdir(parents=True, exist_ok=True)
    with lock(target / ".lock", timeout_s=_LOCK_S):
        return fetched(upscaler, folder) or _download(upscaler, target, endpoint)


def _folder_name(upscaler: Upscaler) -> str:
    return upscaler.source.replace("/", "--")


def _download(upscaler: Upscaler, target: Path, endpoint: str | None) -> Path:
    # It takes a second to import, which only those wait for who ask for a model of the hub.
    from huggingface_hub import HfApi, hf_hub_download

    info = HfApi(endpoint=endpoint).model_info(
        upscaler.source, revision=upscaler.revision, files_metadata=True, timeout=_ANSWER_S
    )
    if info.sha is None:
        raise Unverifiable("the hub does not say which commit it has")
    files = wanted([_file(sibling) for sibling in info.siblings or []], upscaler)
    log.info("downloading a model", extra={"model": upscaler.name, "revision": info.sha, "files": len(files)})
    folder = target / info.sha
    for file in files:
        path = folder / file.name
        if _is_sound(file, path):
            continue
        path.unlink(missing_ok=True)
        with disk_full_as_storage_full():
            hf_hub_download(
                upscaler.source, file.name, revision=info.sha, local_dir=folder, endpoint=endpoint
            )
        if not _is_sound(file, path):
            path.unlink()
            raise Unverifiable(f"{file.name} is not what the hub says it is")
    checksums = {file.name: file.sha256 or file.git_sha1 for file in files}
    write_json(folder / MARKER, {"source": upscaler.source, "revision": info.sha, "files": checksums})
    return folder


def wanted(files: list[HubFile], upscaler: Upscaler) -> list[HubFile]:
    """The configuration, and of each part of the pipeline the weights of the variant, else the plain ones."""
    parts: dict[PurePosixPath, list[HubFile]] = {}
    chosen = []
    for file in files:
        path = PurePosixPath(file.name)
        if path.suffix in _CONFIGURATION and not path.name.startswith("."):
            chosen.append(file)
        # Beside a pipeline's parts lie its weights in one file, for other programs.
        elif path.suffix == _WEIGHTS and (upscaler.engine != "sd" or path.parent != PurePosixPath(".")):
            parts.setdefault(path.parent, []).append(file)
    for each in parts.values():
        variant = [file for file in each if upscaler.variant and f".{upscaler.variant}." in file.name]
        plain = [file for file in each if PurePosixPath(file.name).name.count(".") == 1]
        chosen += variant or plain
    return chosen


def _file(sibling: RepoSibling) -> HubFile:
    lfs = sibling.lfs
    return HubFile(
        name=sibling.rfilename,
        size=sibling.size if lfs is None else lfs.size,
        sha256=None if lfs is None else lfs.sha256,
        git_sha1=sibling.blob_id if lfs is None else None,
    )


def _is_sound(file: HubFile, path: Path) -> bool:
    """Whether the file is there and what the hub says; what it says nothing of is not."""
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    if file.sha256 is not None:
        return sha256_of(path) == file.sha256
    data = path.read_bytes()
    named = hashlib.sha1(b"blob %d\0" % len(data), usedforsecurity=False)
    named.update(data)
    return named.hexdigest() == file.git_sha1


def revision_of(folder: Path) -> str | None:
    """The commit that a fetched folder was downloaded of; None for a folder of one's own."""
    try:
        marker = read_json(folder / MARKER)
    except (FileNotFoundError, ValueError):
        return None
    revision = marker.get("revision") if isinstance(marker, dict) else None
    return revision if isinstance(revision, str) else None
