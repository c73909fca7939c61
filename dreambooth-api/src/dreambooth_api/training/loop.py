"""The training itself, from top to bottom."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from dreambooth_api.models.bases import load_pipeline, resolve_base, revision_of
from dreambooth_api.training import checkpoint as checkpoints
from dreambooth_api.training import schedule
from dreambooth_api.training.checkpoint import Checkpoint
from dreambooth_api.training.drawing import class_pictures, draw
from dreambooth_api.training.learner import Learner
from dreambooth_api.training.material import Material
from dreambooth_api.training.messages import (
    Checkpointed,
    Finished,
    Message,
    Preparing,
    Progress,
    Stopped,
    Validation,
)
from dreambooth_api.training.objective import DenoisingLoss
from dreambooth_api.training.photos import write_png
from dreambooth_api.training.placement import place, prepare_accelerator
from dreambooth_api.training.randomness import Randomness
from dreambooth_api.training.workspace import Workspace

_SMOOTHING = 0.98  # of the loss that is reported at the end: a single step's says little


class Diverged(Exception):
    """The loss is no number any more."""


def train(workspace: Workspace, report: Callable[[Message], None], stopping: Callable[[], bool]) -> Finished | Stopped:
    """Run the workspace's job to its end, or go on with it from its newest checkpoint.

    `report` hears of every step. When `stopping` says so, a checkpoint is written after the present step.
    Raises Diverged, UnsupportedBaseModel, OSError, and torch's errors for want of memory.
    """
    done_before = workspace.finished()
    if done_before is not None:
        return done_before
    job = workspace.read_job()
    options = job.options
    assert options.learning_rate is not None
    assert options.resolution is not None

    report(Preparing("loading"))
    base = resolve_base(options.base_model)
    pipeline: Any = load_pipeline(base, torch.float32)
    revision = revision_of(pipeline, base)
    accelerator, device = prepare_accelerator(job.device, options.mixed_precision)
    place(pipeline, accelerator, device, options)

    pictures = []
    if options.prior_preservation is not None:
        pictures = class_pictures(
            pipeline,
            base,
            revision,
            options.prior_preservation,
            options.resolution,
            job.class_images,
            device,
            lambda done, total: report(Preparing("class images", done, total)),
        )
    report(Preparing("encoding"))
    material = Material(pipeline, options, workspace.read_photos(), job.framings, pictures, device)
    objective = DenoisingLoss(pipeline, options.snr_gamma, device)
    randomness = Randomness(options.seed)

    learner = Learner(pipeline, options)
    parameters = learner.parameters()
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=options.learning_rate, betas=(0.9, 0.999), weight_decay=options.weight_decay
    )
    *_, prepared = accelerator.prepare(*learner.modules.values(), optimizer)

    def save(step: int) -> None:
        random = {**randomness.state(), **material.state()}
        weights = {name: parameter.data for name, parameter in parameters.items()}
        extra = {
            "options": options.model_dump(mode="json"),
            "schedule": {"name": options.lr_scheduler, "step": step},
            "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
            "loss": smooth_loss,
            "seconds": seconds_before + time.monotonic() - started,
        }
        state = _optimizer_tensors(optimizer, list(parameters))
        checkpoints.save(workspace.folder, Checkpoint(step, weights, state, random, extra))
        report(Checkpointed(step))

    first, smooth_loss, seconds_before = 0, 0.0, 0.0
    resumed = checkpoints.load_newest(workspace.folder)
    if resumed is not None:
        learner.load(resumed.weights)
        _restore_optimizer(optimizer, list(parameters), resumed.optimizer)
        randomness.restore(resumed.random)
        material.restore(resumed.random)
        if accelerator.scaler is not None and resumed.extra["scaler"]:
            accelerator.scaler.load_state_dict(resumed.extra["scaler"])
        first, smooth_loss, seconds_before = resumed.step, resumed.extra["loss"], resumed.extra["seconds"]
    started = time.monotonic()

    for step in range(first, options.steps):
        if stopping():
            if step > first:
                save(step)
            return Stopped(step)

        rate = options.learning_rate * schedule.factor(
            options.lr_scheduler, step, options.steps, options.lr_warmup_steps
        )
        for group in optimizer.param_groups:
            group["lr"] = rate

        loss = 0.0
        for _ in range(options.gradient_accumulation_steps):
            with accelerator.autocast():
                batch = material.next(randomness)
                errors = objective(pipeline.unet, batch.latents, batch.embeddings, batch.added, randomness)
                share = (errors * batch.weights).sum() / options.gradient_accumulation_steps
            accelerator.backward(share)
            loss += share.item()
        if not math.isfinite(loss):
            raise Diverged(f"the loss became {loss} in step {step + 1}; a lower learning rate may help")
        accelerator.clip_grad_norm_(parameters.values(), options.max_grad_norm)
        prepared.step()
        prepared.zero_grad()

        done = step + 1
        smooth_loss = loss if done == 1 else _SMOOTHING * smooth_loss + (1 - _SMOOTHING) * loss
        per_step = (time.monotonic() - started) / (done - first)
        images = options.batch_size * options.gradient_accumulation_steps
        report(Progress(done, options.steps, loss, rate, images / per_step, per_step * (options.steps - done)))
        if options.validation_prompt is not None and done % options.validation_interval == 0:
            (picture,) = draw(pipeline, options.validation_prompt, [options.seed], options.resolution, device)
            write_png(workspace.validation, picture)
            report(Validation(done, str(workspace.validation)))
        if done % options.checkpoint_interval == 0 and done < options.steps:
            save(done)

    metrics = {
        "loss": smooth_loss,
        "seconds": round(seconds_before + time.monotonic() - started, 3),
        "trained_parameters": sum(parameter.numel() for parameter in parameters.values()),
        "peak_memory_bytes": _peak_memory(device),
    }
    finished = Finished(str(workspace.result), metrics, revision)
    staged = workspace.folder / ".result.tmp"
    learner.export(staged, half=accelerator.mixed_precision != "no")
    workspace.keep_result(staged, finished)
    return finished


def _optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """AdamW's state by `<parameter>/<moment>`; none before the first step."""
    state = optimizer.state_dict()["state"]
    return {
        f"{names[index]}/{key}": value if isinstance(value, Tensor) else torch.tensor(value)
        for index, moments in state.items()
        for key, value in moments.items()
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, names: list[str], tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, moment = key.rpartition("/")
        state.setdefault(names.index(name), {})[moment] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU where there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
