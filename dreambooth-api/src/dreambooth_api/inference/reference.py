"""Drawing by diffusers' own pipelines: what the batches are tested against, and the way for what they do not
do (samplers of higher order, inpainting, whole fine-tunes).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import PIL.Image
import torch
from enlight_common.queue import Canceled, Stop, WorkQueue
from torch import Tensor

from dreambooth_api.inference.denoising.adapters import AdapterSet, MergedAdapters
from dreambooth_api.inference.denoising.conditioning import Conditioning
from dreambooth_api.inference.denoising.decoding import Decoder, FinishedLatents
from dreambooth_api.inference.denoising.submission import Submission
from dreambooth_api.inference.denoising.texts import cut_off
from dreambooth_api.inference.denoising.turns import Turns
from dreambooth_api.inference.pipelines import PipelineSet, arguments
from dreambooth_api.inference.request import Drawing
from dreambooth_api.inference.schedulers import make_scheduler

#: Steps after which others have a turn: a merge of adapters and its undoing cost a quarter of a step.
_TURN_STEPS = 4


@dataclass(frozen=True)
class PlainRequest:
    """What to draw, by whose pipelines, and who waits for it.

    *adapters* and *conditioning*, its texts, are for the base model's pipelines; None for a whole fine-tune.
    """

    drawing: Drawing
    seeds: Sequence[int]
    pipelines: Callable[[], PipelineSet]
    adapters: AdapterSet | None
    conditioning: Conditioning | None
    whose: Submission


class PlainDrawings:
    """Draws one request at a time, in a thread of its own, and lets the batches step in between."""

    def __init__(
        self,
        turns: Turns,
        applied: MergedAdapters,
        decoder: Decoder,
        *,
        max_batch: int,
        max_batch_pixels: int,
    ) -> None:
        self._turns, self._applied, self._decoder = turns, applied, decoder
        self._max_batch, self._max_pixels = max_batch, max_batch_pixels
        # Who submits bounds it.
        self._queue = WorkQueue(limit=2**31, what="drawings")

    def draw(self, request: PlainRequest) -> list[PIL.Image.Image]:
        """The pictures of *request*.

        Raises:
            Canceled, TimedOut: as ``Submission.result`` does.
        """
        drawing, whose = request.drawing, request.whose
        whose.expect(len(request.seeds) * drawing.steps)

        def work(_stop: Stop) -> None:
            # Before the turn: a whole fine-tune is read from the disk.
            pipelines = request.pipelines()
            with _Turn(request, self._turns, self._applied) as turn:
                whose.truncated_prompt = _cut_off(request, pipelines)
                for first, seeds in self._batches(request):
                    latents = _latents(request, pipelines, seeds, turn)
                    for index, one in enumerate(latents, first):
                        self._decoder.decode(FinishedLatents(whose, index, one, pipelines.autoencoder))

        def gave_up() -> bool:
            whose.look()
            return whose.over

        # Canceled says that it is over, and the result says why.
        with suppress(Canceled):
            self._queue.run(work, units=len(request.seeds), stop=gave_up)
        return whose.result()

    def _batches(self, request: PlainRequest) -> Iterator[tuple[int, Sequence[int]]]:
        """A batch's seeds at a time, and the index of the first of them."""
        fitting = self._max_pixels // (request.drawing.width * request.drawing.height)
        size = max(1, min(self._max_batch, fitting))
        for first in range(0, len(request.seeds), size):
            yield first, request.seeds[first : first + size]


class _Turn:
    """The device's turn, given away between steps where others want it, and taken again."""

    def __init__(self, request: PlainRequest, turns: Turns, applied: MergedAdapters) -> None:
        self._request, self._turns, self._applied = request, turns, applied
        self._steps = 0
        self._began = 0.0

    def __enter__(self) -> _Turn:
        self._turns.take()
        try:
            self._begin()
        except BaseException:
            self._turns.give_back()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._turns.give_back()

    def stepped(self, pictures: int) -> None:
        """Tell of a step, and let others step. Raises Canceled where nobody waits any more."""
        whose = self._request.whose
        now = time.perf_counter()
        whose.stepped(pictures, now - self._began)
        self._began = now
        whose.look()
        if whose.over:
            raise Canceled
        self._steps += 1
        if self._steps % _TURN_STEPS == 0 and self._turns.wanted:
            self._turns.give_back()
            self._turns.take()
            self._begin()

    def _begin(self) -> None:
        if self._request.adapters is not None:
            with torch.inference_mode():
                self._applied.merge(self._request.adapters)
        self._began = time.perf_counter()


def _cut_off(request: PlainRequest, pipelines: PipelineSet) -> str | None:
    if request.conditioning is not None:
        return request.conditioning.prompt.cut_off
    return cut_off(pipelines.text.tokenizer, request.drawing.prompt)


def _latents(request: PlainRequest, pipelines: PipelineSet, seeds: Sequence[int], turn: _Turn) -> Tensor:
    """Finished latents of a batch, (pictures, channels, height, width)."""
    drawing = request.drawing
    pipeline = pipelines.of(drawing.mode)
    pipeline.scheduler = make_scheduler(drawing.scheduler, pipelines.scheduler_config)
    with ExitStack() as encoding:
        if drawing.mode != "text":
            # The VAE is used until the first step, and SDXL's pipelines change its dtype meanwhile.
            encoding.enter_context(pipelines.autoencoder.in_use)

        def watch(_pipeline: Any, step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            encoding.close()
            # Some samplers call the UNet more often than they were asked to take steps.
            turn.stepped(len(seeds) if step < drawing.steps else 0)
            return values

        # On the CPU also for a GPU: its generator gives the same noise on every machine.
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        latents: Tensor = pipeline(
            **arguments(drawing, len(seeds), request.conditioning),
            generator=generators,
            callback_on_step_end=watch,
            output_type="latent",
        ).images
    if latents.device.type == "cuda":
        torch.cuda.current_stream(latents.device).synchronize()  # they are decoded in another stream
    return latents
