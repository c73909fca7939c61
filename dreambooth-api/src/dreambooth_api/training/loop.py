"""The training itself, from top to bottom."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable

import torch

from dreambooth_api.training import schedule
from dreambooth_api.training.drawing import draw
from dreambooth_api.training.messages import Finished, Message, Progress, Saving, Stopped, Validation
from dreambooth_api.training.photos import write_png
from dreambooth_api.training.saving import Saver
from dreambooth_api.training.setup import Setup, set_up
from dreambooth_api.training.snapshot import Position
from dreambooth_api.training.workspace import Workspace

_SMOOTHING = 0.98  # of the loss that is reported at the end: a single step's says little


class Diverged(Exception):
    """The loss is no number any more."""


def train(
    workspace: Workspace, report: Callable[[Message], None], stopping: Callable[[], bool]
) -> Finished | Stopped:
    """Run the workspace's job to its end, going on from its newest checkpoint where there is one.

    `report` hears of every step. Between steps `stopping` is asked, which may take its time, to let others
    have the device; when it says so, a checkpoint is written and the run ends.
    Raises Diverged, UnsupportedBaseModel, OSError, and torch's errors for want of memory.
    """
    if (before := workspace.finished()) is not None:
        return before
    job = workspace.read_job()
    options = job.options
    setup = set_up(workspace, report)
    accelerator, unet = setup.accelerator, setup.pipeline.unet
    parameters = list(setup.learner.parameters().values())
    assert options.learning_rate is not None

    saver = Saver(workspace, job, setup, report)
    position = saver.restore()
    first, seconds_before, started = position.step, position.seconds, time.monotonic()

    for step in range(first, options.steps):
        if stopping():
            saver.leave(position)
            return Stopped(step)

        rate = options.learning_rate * schedule.factor(
            options.lr_scheduler, step, options.steps, options.lr_warmup_steps
        )
        for group in setup.optimizer.param_groups:
            group["lr"] = rate

        losses = torch.zeros((), device=setup.device)
        for _ in range(options.gradient_accumulation_steps):
            batch = setup.material.next(setup.randomness)
            with accelerator.autocast():
                errors = setup.objective(unet, batch.latents, batch.embeddings, batch.added, setup.randomness)
                share = (errors * batch.weights).sum() / options.gradient_accumulation_steps
            accelerator.backward(share)
            losses += share.detach()
        accelerator.clip_grad_norm_(parameters, options.max_grad_norm)
        setup.stepper.step()
        setup.stepper.zero_grad()
        loss = losses.item()  # the one moment of a step that waits for a GPU, when all of it is under way
        if not math.isfinite(loss):
            raise Diverged(f"the loss became {loss} in step {step + 1}; a lower learning rate may help")

        done, taken = step + 1, time.monotonic() - started
        smooth = loss if step == 0 else _SMOOTHING * position.loss + (1 - _SMOOTHING) * loss
        position = Position(done, seconds_before + taken, smooth)
        per_step = taken / (done - first)
        images = options.batch_size * options.gradient_accumulation_steps
        report(
            Progress(done, options.steps, loss, rate, images / per_step, per_step * (options.steps - done))
        )

        if options.validation_prompt is not None and done % options.validation_interval == 0:
            assert options.resolution is not None
            (picture,) = draw(
                setup.pipeline, options.validation_prompt, [options.seed], options.resolution, setup.device
            )
            write_png(workspace.validation, picture)
            report(Validation(done, str(workspace.validation)))
        if done % options.checkpoint_interval == 0 and done < options.steps:
            saver.save(position)

    report(Saving(options.steps))
    return _finish(workspace, setup, position)


def _finish(workspace: Workspace, setup: Setup, position: Position) -> Finished:
    metrics = {
        "loss": position.loss,
        "seconds": round(position.seconds, 3),
        "trained_parameters": sum(parameter.numel() for parameter in setup.learner.parameters().values()),
        "peak_memory_bytes": _peak_memory(setup.device),
    }
    finished = Finished(str(workspace.result), metrics, setup.base_revision)
    staged = workspace.folder / ".result.tmp"
    setup.learner.export(staged, half=setup.accelerator.mixed_precision != "no")
    workspace.keep_result(staged, finished)
    return finished


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU where there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
