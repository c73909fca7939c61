"""The trainer against what it is made of and against a plain diffusers loop: ratios, each within its run.

    .venv/bin/python benchmarks/engine_training.py [step_ratio job_efficiency train_gain sharing]
        [--pairs 30] [--seconds 120] [--gain-steps 400] [--diffusers-script PATH] [--json FILE]

`step_ratio`      a LoRA step of the trainer / a no-grad forward of the bare UNet on the same batch of 4
`job_efficiency`  steps × steady step / from `Trainings.start` to the model opened from the store
`train_gain`      a plain DreamBooth-LoRA script / our trainer: start of the process to the file that serves;
                  and / our service with a spare child: from the request to the model opened from the store
`sharing`         by policy: a picture's median latency beside a training / alone, and steps a second
                  beside pictures / alone
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from enlight_common import openmp

os.environ.update({**openmp.WAITING, **os.environ})

import torch
from dreambooth_api.inference.engine import Engine
from dreambooth_api.inference.request import DrawRequest
from dreambooth_api.models.bases import TINY, load_pipeline, resolve_base
from dreambooth_api.models.store import open_store
from dreambooth_api.tiny import PHOTOS_FOLDER
from dreambooth_api.tiny.subject import INSTANCE_PROMPT, photos
from dreambooth_api.training.loop import train
from dreambooth_api.training.messages import Message, Progress
from dreambooth_api.training.options import TrainingOptions
from dreambooth_api.training.orders import SharingPolicy
from dreambooth_api.training.run_state import RunState
from dreambooth_api.training.runs import Trainings
from dreambooth_api.training.spare import SpareWanted
from dreambooth_api.training.workspace import Workspace, prepare_job

BATCH = 4
RANK = 8
IMPORTS_S = 20.0  # that a spare has to get ready
POLICIES: tuple[SharingPolicy, ...] = ("interactive-first", "share", "training-first")
DEVICE = "cuda:0" if torch.cuda.is_available() else "cpu"
PLAIN_SCRIPT = Path(__file__).with_name("plain_lora_training.py")


@dataclass(frozen=True)
class Figure:
    """The median of several ratios, and the quartiles around it."""

    name: str
    median: float
    lower: float
    upper: float
    count: int

    @classmethod
    def of(cls, name: str, values: list[float]) -> Figure:
        lower, upper = values[0], values[0]
        if len(values) > 1:
            lower, _, upper = statistics.quantiles(values, n=4)
        return cls(name, statistics.median(values), lower, upper, len(values))


def main() -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("figures", nargs="*", choices=[*FIGURES, []], help="all of them by default")
    parser.add_argument("--pairs", type=int, default=30, help="of step_ratio; train_gain does one of 30")
    parser.add_argument("--seconds", type=float, default=120.0, help="of steps in job_efficiency")
    parser.add_argument("--gain-steps", type=int, default=400, help="of train_gain")
    parser.add_argument("--diffusers-script", type=Path, help="their train_dreambooth_lora.py")
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    figures: list[Figure] = []
    print(f"{'':44}{'median':>9}{'lower':>9}{'upper':>9}{'n':>5}")
    for name in args.figures or FIGURES:
        for one in FIGURES[name](args):
            figures.append(one)
            print(f"{one.name:44}{one.median:9.3f}{one.lower:9.3f}{one.upper:9.3f}{one.count:5}", flush=True)
    if args.json:
        args.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n")


def asked(steps: int, **more: Any) -> TrainingOptions:
    values = {"instance_prompt": INSTANCE_PROMPT, "steps": steps, "rank": RANK, **more}
    return TrainingOptions.model_validate(values)


def step_ratio(args: argparse.Namespace) -> Iterator[Figure]:
    """Between two steps of the trainer, in its own loop, the bare UNet does a pass."""
    base = resolve_base(TINY)
    bare: Any = load_pipeline(base, torch.float32)
    unet = bare.unet.to(DEVICE).requires_grad_(False).eval()
    side = base.resolution // 8
    latents = torch.randn(BATCH, 4, side, side, device=DEVICE)
    levels = torch.randint(0, 1000, (BATCH,), device=DEVICE)
    with torch.no_grad():
        text = bare.text_encoder.to(DEVICE)(bare.tokenizer([INSTANCE_PROMPT], padding="max_length",
            truncation=True, return_tensors="pt").input_ids.to(DEVICE))[0].repeat(BATCH, 1, 1)  # fmt: skip
    steps: list[float] = []
    passes: list[float] = []
    began = 0.0

    def report(message: Message) -> None:
        if isinstance(message, Progress):
            steps.append(clock() - began)

    def between_steps() -> bool:
        nonlocal began
        started = clock()
        with torch.no_grad():
            unet(latents, levels, text)
        began = clock()
        passes.append(began - started)
        return False

    with tempfile.TemporaryDirectory() as folder:
        wanted = asked(args.pairs + 2, batch_size=BATCH, checkpoint_interval=20_000).resolved(base)
        job, squares = prepare_job(
            "default", "benchmark", wanted, photos(), base_revision=base.revision, device=DEVICE,
            class_images=Path(folder) / "class-images",
        )  # fmt: skip
        workspace = Workspace.claim(Path(folder), job.identity)
        workspace.write_job(job, squares)
        train(workspace, report, between_steps)
        workspace.release()
    ratios = [step / forward for step, forward in zip(steps, passes, strict=True)]
    yield Figure.of("step_ratio", ratios[2:])


def clock() -> float:
    if DEVICE != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def job_efficiency(args: argparse.Namespace) -> Iterator[Figure]:
    """One job by a new process, and one by the spare that waited."""
    pace = 0.0
    wanted: tuple[SpareWanted, ...] = ("off", "on")
    for spare in wanted:
        with tempfile.TemporaryDirectory() as folder:
            store = open_store((Path(folder) / "store").as_uri(), Path(folder) / "cache", 10**10)
            trainings = Trainings(Path(folder) / "data", store, "cpu0", device=DEVICE, spare=spare)
            trainings.prepare()
            if spare == "on":
                time.sleep(IMPORTS_S)
            else:
                pace = steady_step(arrivals(trainings, "pace", asked(60)))
            steps = max(60, round(args.seconds / pace))
            started = time.perf_counter()
            arrived = arrivals(trainings, "job", asked(steps, seed=1))
            with store.open("job"):
                whole = time.perf_counter() - started
            trainings.shutdown(10)
            of_steps = steps * steady_step(arrived)
            first, began = next((step, at) for step, at in arrived if step > 0)
            ended = next(at for step, at in arrived if step == steps)
            of_first = first * of_steps / steps
            yield Figure.of(f"job_efficiency, spare {spare}", [of_steps / whole])
            yield Figure.of(f"seconds before its first step, spare {spare}", [began - started - of_first])
            yield Figure.of(
                f"seconds of slower steps and checkpoints, spare {spare}",
                [ended - began - of_steps + of_first],
            )
            yield Figure.of(f"seconds after its last step, spare {spare}", [started + whole - ended])


def arrivals(trainings: Trainings, model_id: str, options: TrainingOptions) -> list[tuple[int, float]]:
    """Train to the end; (steps done, when that was heard)."""
    run = trainings.start("default", model_id, options, photos())
    heard: list[tuple[int, float]] = []
    last: RunState | None = None
    for state in trainings.follow(run.run_id, interval=5.0):
        if state is not None:
            last = state
            heard.append((state.step, time.perf_counter()))
    assert last is not None
    if last.status != "succeeded":
        raise SystemExit(f"a training {last.status}: {last.error}")
    return heard


def steady_step(heard: list[tuple[int, float]]) -> float:
    """The median seconds of a step."""
    times = [
        (later - earlier) / (done - before)
        for (before, earlier), (done, later) in pairwise(heard)
        if done > before > 0
    ]
    return statistics.median(times)


def train_gain(args: argparse.Namespace) -> Iterator[Figure]:
    """In turn, same photos, steps, batch and rank: their process, ours, and a service with a spare child."""
    by_command, by_service = [], []
    for _ in range(max(1, args.pairs // 30)):
        with tempfile.TemporaryDirectory() as folder:
            theirs = timed(plain_command(args, Path(folder) / "theirs"))
            by_command.append(theirs / timed(our_command(args, Path(folder))))
            by_service.append(theirs / served_seconds(args, Path(folder) / "served"))
    yield Figure.of(f"train_gain, {args.gain_steps} steps of batch {BATCH}", by_command)
    yield Figure.of("train_gain, by a service that is there", by_service)


def served_seconds(args: argparse.Namespace, folder: Path) -> float:
    """From the request to the model opened from the store."""
    store = open_store((folder / "store").as_uri(), folder / "cache", 10**10)
    trainings = Trainings(folder / "data", store, "cpu0", device=DEVICE, spare="on")
    trainings.prepare()
    time.sleep(IMPORTS_S)
    started = time.perf_counter()
    arrivals(trainings, "benchmark", asked(args.gain_steps, batch_size=BATCH))
    with store.open("benchmark"):
        seconds = time.perf_counter() - started
    trainings.shutdown(10)
    return seconds


def timed(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def plain_command(args: argparse.Namespace, output: Path) -> list[str]:
    base = resolve_base(TINY)
    script = args.diffusers_script or PLAIN_SCRIPT
    return [
        sys.executable, str(script), f"--pretrained_model_name_or_path={base.source}",
        f"--instance_data_dir={PHOTOS_FOLDER}", f"--instance_prompt={INSTANCE_PROMPT}",
        f"--output_dir={output}", f"--resolution={base.resolution}", f"--train_batch_size={BATCH}",
        f"--max_train_steps={args.gain_steps}", f"--learning_rate={base.learning_rate['lora']}",
        "--lr_scheduler=constant", "--lr_warmup_steps=0", f"--rank={RANK}", "--seed=0",
    ]  # fmt: skip


def our_command(args: argparse.Namespace, folder: Path) -> list[str]:
    return [
        sys.executable, "-m", "dreambooth_api.train", f"--images={PHOTOS_FOLDER}",
        f"--prompt={INSTANCE_PROMPT}", "--name=benchmark", f"--batch-size={BATCH}",
        f"--steps={args.gain_steps}", f"--rank={RANK}", f"--device={DEVICE}",
        f"--work={folder / 'work'}", f"--store={folder / 'store'}",
    ]  # fmt: skip


def sharing(args: argparse.Namespace) -> Iterator[Figure]:
    """Pictures one after the other, with and without a training, which in turn is timed without pictures."""
    pictures = max(5, args.pairs // 3)
    with tempfile.TemporaryDirectory() as folder:
        store = open_store((Path(folder) / "store").as_uri(), Path(folder) / "cache", 10**10)
        engine = Engine(resolve_base(TINY), store, DEVICE)
        engine.load()
        request = DrawRequest(prompt=INSTANCE_PROMPT, steps=10, seed=7)
        for policy in POLICIES:
            alone = latencies(lambda: engine.draw(request), pictures)
            trainings = Trainings(Path(folder) / "data", store, "cpu0", device=DEVICE, policy=policy)
            run = trainings.start("default", policy, asked(20_000, checkpoint_interval=20_000), photos())
            await_step(trainings, run.run_id, 5)
            free = pace_of(trainings, run.run_id, lambda: time.sleep(10))

            def draw_beside(trainings: Trainings = trainings) -> object:
                trainings.sharing.pictures_waiting(True)
                try:
                    return engine.draw(request)
                finally:
                    trainings.sharing.pictures_waiting(False)

            beside: list[float] = []

            def draw_all(beside: list[float] = beside, draw: Callable[[], object] = draw_beside) -> None:
                beside += latencies(draw, pictures)

            busy = pace_of(trainings, run.run_id, draw_all)
            trainings.cancel(run.run_id)
            trainings.shutdown(10)
            middle = statistics.median(alone)
            yield Figure.of(f"a picture's latency, {policy}", [seconds / middle for seconds in beside])
            yield Figure.of(f"the training's pace, {policy}", [busy / free])


def latencies(draw: Callable[[], object], count: int) -> list[float]:
    draw()
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        draw()
        seconds.append(time.perf_counter() - started)
    return seconds


def await_step(trainings: Trainings, run_id: str, step: int) -> None:
    for state in trainings.follow(run_id):
        if state is not None and state.step >= step:
            return


def pace_of(trainings: Trainings, run_id: str, meanwhile: Callable[[], object]) -> float:
    """Steps a second while `meanwhile` goes on."""
    before, started = trainings.get(run_id).step, time.perf_counter()
    meanwhile()
    return (trainings.get(run_id).step - before) / (time.perf_counter() - started)


FIGURES: dict[str, Callable[[argparse.Namespace], Iterator[Figure]]] = {
    "step_ratio": step_ratio,
    "job_efficiency": job_efficiency,
    "train_gain": train_gain,
    "sharing": sharing,
}


if __name__ == "__main__":
    main()
