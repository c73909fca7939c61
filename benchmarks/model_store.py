"""What the model store costs: a fetch beside cp, fsync and sha256sum, a hit, and pictures of many models.

    .venv/bin/python benchmarks/model_store.py [--rounds 7] [--megabytes 400] [--models 10] [--steps 5]

A fetch and the plain tools take turns on the same bytes and disk. Pictures are drawn with half as many
adapters as the memory cache holds, and with twice as many, each next picture with the next adapter; the
ratio is to the base model alone.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from dreambooth_api.inference.engine import Engine, EngineLimits
from dreambooth_api.inference.request import DrawRequest, WeightedModel
from dreambooth_api.models.artifact import BaseReference, Manifest, now
from dreambooth_api.models.bases import TINY, load_pipeline, resolve_base
from dreambooth_api.models.store import ModelStore, open_store
from enlight_common.quiet import quieten
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

ROOM = 10**12
BLOCK = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--models", type=int, default=10, help="how many adapters the memory cache holds")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on the disk to measure (default: a temporary folder)")
    args = parser.parse_args()
    quieten(diffusers.logging, transformers.logging)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        store = open_store((folder / "objects").as_uri(), folder / "cache", ROOM)
        fetches(store, folder, args.rounds, args.megabytes)
        hits(store)
        pictures(store, folder, args.models, args.steps, args.rounds)


def fetches(store: ModelStore, folder: Path, rounds: int, megabytes: int) -> None:
    """Seconds of `cp`, fsync and `sha256sum`, and of a cold open, of one file of so many megabytes."""
    result = folder / "result"
    result.mkdir()
    weights = result / "model.safetensors"
    with weights.open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(BLOCK))
    key = store.catalog.publish(result, describe("large")).key
    (source,) = (folder / "objects").rglob("*.safetensors")

    def plain() -> None:
        subprocess.run(["cp", source, folder / "copy"], check=True)
        with (folder / "copy").open("rb") as file:
            os.fsync(file.fileno())
        subprocess.run(["sha256sum", folder / "copy"], check=True, stdout=subprocess.DEVNULL)

    def fetched() -> None:
        with store.open("large"):
            pass

    ratios, speeds = [], []
    for number in range(rounds + 1):
        tools = seconds_of(plain)
        (folder / "copy").unlink()
        ours = seconds_of(fetched)
        store.cache.evict(key)
        if number:
            ratios.append(tools / ours)
            speeds.append(megabytes * BLOCK / 1e6 / ours)
    print(
        f"fetch of {megabytes} MiB from file://   {statistics.median(speeds):7.0f} MB/s, "
        f"{statistics.median(ratios):.2f} of the speed of cp + fsync + sha256sum "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )
    shutil.rmtree(result)


def hits(store: ModelStore, times: int = 2000) -> None:
    """Milliseconds to open a model that is at hand."""
    for number in range(3):
        publish_adapter(store, f"small-{number}")
        with store.open(f"small-{number}"):
            pass

    def hit() -> None:
        with store.open("small-1"):
            pass

    cost = sorted(seconds_of(hit) * 1000 for _ in range(times))
    median, most = cost[times // 2], cost[times * 99 // 100]
    print(f"a hit                            {median:7.3f} ms (99 of 100 below {most:.3f})")


def pictures(store: ModelStore, folder: Path, models: int, steps: int, rounds: int) -> None:
    """Pictures a second with a working set of half and of twice the memory cache."""
    names = [f"adapter-{number}" for number in range(2 * models)]
    size = max(publish_adapter(store, name) for name in names)
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    # A little more than they take, so that exactly so many fit.
    # Adapters have half of the bound, whole fine-tunes the other.
    limits = EngineLimits(max_loaded_bytes=2 * (size * models + size // 2))
    engine = Engine(resolve_base(TINY), store, device, limits=limits)
    engine.load()

    def draw(name: str | None) -> Callable[[], None]:
        chosen = (WeightedModel(name),) if name else ()
        request = DrawRequest(prompt="a red shoe", models=chosen, num_image=1, steps=steps, seed=7)
        return lambda: void(engine.draw(request))

    alone: list[float] = []
    for label, count in (("half", models // 2), ("twice", 2 * models)):
        for name in names[:count]:
            draw(name)()
        ratios, speeds = [], []
        for _ in range(rounds):
            base = statistics.median(seconds_of(draw(None)) for _ in range(3))
            alone.append(base)
            each = [seconds_of(draw(name)) for name in names[:count]]
            speeds.append(len(each) / sum(each))
            ratios.append(base * len(each) / sum(each))
        print(
            f"working set of {label:5} the memory  {statistics.median(speeds):7.2f} pictures/s, "
            f"{statistics.median(ratios):.2f} of the base model's ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    print(f"the base model alone             {1 / statistics.median(alone):7.2f} pictures/s")


def publish_adapter(store: ModelStore, name: str) -> int:
    """Publish a LoRA of rank 4 with random weights; its bytes."""
    pipeline = load_pipeline(resolve_base(TINY), torch.float32)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    pipeline.unet.add_adapter(LoraConfig(r=4, target_modules=targets, init_lora_weights="gaussian"))
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipeline.unet))
    with tempfile.TemporaryDirectory() as folder:
        StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers)
        published = store.publish(Path(folder), describe(name))
    return sum(file.size for file in published.files)


def describe(name: str) -> Manifest:
    return Manifest(
        tenant="default",
        model_id=name,
        method="lora",
        base=BaseReference(name=TINY),
        instance_prompt="a sks shoe",
        created_at=now(),
    )


def seconds_of(way: Callable[[], None]) -> float:
    started = time.perf_counter()
    way()
    return time.perf_counter() - started


def void(_: object) -> None:
    """Drop a result."""


if __name__ == "__main__":
    main()
