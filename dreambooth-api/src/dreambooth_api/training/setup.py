"""All that has to be there before the first step: the base model, what it looks at, and what of it is
trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator

from dreambooth_api.models.bases import load_pipeline, resolve_base, revision_of
from dreambooth_api.training.drawing import class_pictures
from dreambooth_api.training.learner import Learner
from dreambooth_api.training.material import Material
from dreambooth_api.training.messages import Message, Preparing
from dreambooth_api.training.objective import DenoisingLoss
from dreambooth_api.training.placement import place, prepare_accelerator
from dreambooth_api.training.randomness import Randomness
from dreambooth_api.training.workspace import Workspace


@dataclass(frozen=True)
class Setup:
    """`optimizer` is the plain one, whose state is saved; `stepper` is accelerate's, which knows of scaled
    losses.
    """

    pipeline: Any
    base_revision: str | None
    accelerator: Accelerator
    device: torch.device
    material: Material
    objective: DenoisingLoss
    learner: Learner
    optimizer: torch.optim.AdamW
    stepper: Any
    randomness: Randomness


def set_up(workspace: Workspace, report: Callable[[Message], None]) -> Setup:
    """Load and encode what the workspace's job needs, drawing class pictures that are not there yet.

    Raises UnsupportedBaseModel, OSError, and torch's errors for want of memory.
    """
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

    learner = Learner(pipeline, options)
    optimizer = torch.optim.AdamW(
        learner.parameters().values(),
        lr=options.learning_rate,
        betas=(0.9, 0.999),
        weight_decay=options.weight_decay,
        fused=True,  # one kernel: of hundreds of small matrices, each would have a dozen of its own
    )
    *_, stepper = accelerator.prepare(*learner.modules.values(), optimizer)
    return Setup(
        pipeline=pipeline,
        base_revision=revision,
        accelerator=accelerator,
        device=device,
        material=material,
        objective=objective,
        learner=learner,
        optimizer=optimizer,
        stepper=stepper,
        randomness=Randomness(options.seed),
    )
