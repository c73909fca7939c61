"""What a trained model looks like on the disk: a folder of safetensors and JSON with `model.json` in it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from enlight_common.files import sha256_of
from pydantic import BaseModel, ConfigDict, Field, JsonValue

MANIFEST = "model.json"
#: The one file of a LoRA, where `load_lora_weights(folder)` looks for it.
LORA_WEIGHTS = "pytorch_lora_weights.safetensors"
#: Weights, configurations and tokenizers; nothing that could be unpickled.
ALLOWED_SUFFIXES = frozenset({".safetensors", ".json", ".txt"})

_STRICT = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


@dataclass(frozen=True)
class ModelKey:
    """One version of one model."""

    tenant: str
    model_id: str
    version: str

    @property
    def pinned(self) -> str:
        """The id that names this very version to the store."""
        return f"{self.model_id}@{self.version}"


class BaseReference(BaseModel):
    """The base model that an artifact belongs to. `revision` is a commit, or the fingerprint of a folder."""

    model_config = _STRICT
    name: str
    revision: str | None = None


class FileEntry(BaseModel):
    model_config = _STRICT
    path: str = Field(description="Relative to the folder, with forward slashes")
    size: int = Field(ge=0, description="Bytes")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """`model.json`. `rank` and `alpha` are None for a full fine-tune; `files` leaves out the manifest
    itself.
    """

    model_config = _STRICT
    schema_version: Literal[1] = 1
    tenant: str
    model_id: str
    version: str = ""
    method: Literal["lora", "full"]
    base: BaseReference
    rank: int | None = None
    alpha: float | None = None
    instance_prompt: str
    training: dict[str, JsonValue] = Field(default_factory=dict)
    metrics: dict[str, JsonValue] = Field(default_factory=dict)
    files: list[FileEntry] = Field(default_factory=list)
    created_at: str

    @property
    def key(self) -> ModelKey:
        """Its names."""
        return ModelKey(self.tenant, self.model_id, self.version)

    def to_bytes(self) -> bytes:
        """What is written to `model.json`."""
        return (self.model_dump_json(indent=2) + "\n").encode()


@dataclass(frozen=True)
class Artifact:
    """A model that is there whole: its folder and what its manifest says."""

    folder: Path
    manifest: Manifest

    @property
    def bytes(self) -> int:
        return sum(entry.size for entry in self.manifest.files)


def now() -> str:
    """The present time in UTC as RFC 3339 with microseconds."""
    return rfc3339(datetime.now(UTC).timestamp())


def rfc3339(seconds: float) -> str:
    """A time in seconds since the epoch as RFC 3339 in UTC with microseconds."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def new_version() -> str:
    """A version name that sorts by time, with random digits so that two instances never make the same one."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ") + "-" + secrets.token_hex(3)


def describe_files(folder: Path) -> list[FileEntry]:
    """Every file under `folder` but the manifest, with size and sha256, sorted by path.

    Raises ValueError for a link, a special file, or a kind of file that has no place in an artifact.
    """
    entries = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise ValueError(f"{name} is a link or no regular file")
        if path.is_dir() or name == MANIFEST:
            continue
        if path.suffix not in ALLOWED_SUFFIXES:
            raise ValueError(f"{name} is none of {', '.join(sorted(ALLOWED_SUFFIXES))}")
        entries.append(FileEntry(path=name, size=path.stat().st_size, sha256=sha256_of(path)))
    if not any(entry.path.endswith(".safetensors") for entry in entries):
        raise ValueError("there are no safetensors in the folder")
    return entries
