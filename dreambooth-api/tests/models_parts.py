"""What the tests of the model store share: small models of known bytes, and a process to open them in."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from dreambooth_api.models.artifact import Artifact, BaseReference, Manifest
from dreambooth_api.models.store import ModelStore, open_store

LARGE = 10**9


def manifest(model_id: str = "shoe", *, tenant: str = "default", version: str = "") -> Manifest:
    return Manifest(
        tenant=tenant,
        model_id=model_id,
        version=version,
        method="lora",
        base=BaseReference(name="enlight/tiny-sd"),
        instance_prompt="a sks shoe",
        created_at="2026-11-21T05:00:00Z",
    )


def result(folder: Path, size: int = 20_000, seed: int = 0) -> Path:
    """What a training leaves: two files, one of them in a folder, with bytes that follow from the seed."""
    (folder / "unet").mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(random.Random(seed).randbytes(size))
    (folder / "unet" / "config.json").write_text(json.dumps({"seed": seed}))
    return folder


def store_at(folder: Path, cache: str = "cache", max_bytes: int = LARGE) -> ModelStore:
    """A machine's view: the object store in `folder`, and that machine's own cache."""
    return open_store((folder / "objects").as_uri(), folder / cache, max_bytes)


def publish(store: ModelStore, folder: Path, model_id: str, size: int = 20_000, seed: int = 0) -> Manifest:
    """Publish a model into the object store alone, as another machine would."""
    return store.catalog.publish(result(folder, size, seed), manifest(model_id))


def is_right(artifact: Artifact) -> bool:
    """Whether every byte is that of the manifest."""
    return all(
        hashlib.sha256((artifact.folder / file.path).read_bytes()).hexdigest() == file.sha256
        for file in artifact.manifest.files
    )


def disk_bytes(folder: Path) -> int:
    """What `du` says."""
    said = subprocess.run(
        ["du", "-s", "--block-size=1", str(folder)], capture_output=True, text=True, check=False
    )
    return int(said.stdout.split()[0])


class OtherProcess:
    """A process with the same store and cache. `ask` waits for its answer, `tell` and `answer` do not."""

    def __init__(self, folder: Path, max_bytes: int = LARGE, *, locks: bool = True) -> None:
        script = Path(__file__).with_name("models_process.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script), str(folder), str(max_bytes), str(int(locks))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, what: str, **more: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"what": what, **more}) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def ask(self, what: str, **more: Any) -> Any:
        self.tell(what, **more)
        return self.answer()

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.communicate()
