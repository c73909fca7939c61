"""Drawing by diffusers' own pipelines: what the batches are tested against, and the way for what they do not
do (samplers of higher order, inpainting, whole fine-tunes).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from enlight_common.errors import OutOfMemory, ShuttingDown
from enlight_common.leaving import WORDS
from enlight_common.queue import Canceled
from torch import Tensor

from dreambooth_api.inference.denoising.adapter_sets import AdapterSet
from dreambooth_api.inference.denoising.adapters import MergedAdapters
from dreambooth_api.inference.denoising.batch_sizes import FittingSizes
from dreambooth_api.inference.denoising.conditioning import Conditioning
from dreambooth_api.inference.denoising.decoding import Decoder, FinishedLatents
from dreambooth_api.inference.denoising.submission import Submission
from dreambooth_api.inference.denoising.texts import cut_off
from dreambooth_api.inference.denoising.turns import Party
from dreambooth_api.inference.pipelines import PipelineSet, arguments
from dreambooth_api.inference.request import SIDE_STEP, Drawing
from dreambooth_api.inference.schedulers import make_scheduler
from dreambooth_api.inference.within_memory import within_memory

log = logging.getLogger(__name__)

#: Steps of a turn at least: a merge of adapters and its undoing cost a quarter of a step.
_TURN_STEPS = 4


@dataclass(frozen=True)
class PlainRequest:
    """What to draw, by whose pipelines, and who waits for it.

    *adapters* and *conditioning*, its texts, are for the base model's pipelines; None for a whole fine-tune.
    *pipelines* and *conditioning* may take long, and are asked for in the thread that draws.
    """

    drawing: Drawing
    seeds: Sequence[int]
    pipelines: Callable[[], PipelineSet]
    adapters: AdapterSet | None
    conditioning: Callable[[], Conditioning] | None
    whose: Submission


class PlainDrawings:
    """Draws one request at a time, in a thread of its own, and lets the batches step in between."""

    def __init__(self, turns: Party, applied: MergedAdapters, decoder: Decoder, sizes: FittingSizes) -> None:
        """*sizes* are latents'."""
        self._turns, self._applied, self._decoder, self._sizes = turns, applied, decoder, sizes
        self._queue: deque[PlainRequest] = deque()
        self._changed = threading.Condition()
        self._present: PlainRequest | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._draw_forever, name="plain drawings", daemon=True)
        self._thread.start()

    def start(self, request: PlainRequest) -> None:
        """Have *request* drawn, for who waits for it to be told."""
        request.whose.expect(len(request.seeds) * request.drawing.steps_taken)
        with self._changed:
            # Of those who left nothing is kept, their images least of all; who submits bounds the rest.
            self._queue = deque(one for one in self._queue if not one.whose.over)
            if not self._closing:
                self._queue.append(request)
                self._changed.notify()
                return
        request.whose.fail(ShuttingDown(WORDS))

    def close(self, deadline: float) -> None:
        """Give up what is wanted and end, by *deadline* (``time.monotonic``) or after the present step."""
        with self._changed:
            self._closing = True
            given_up = [*self._queue, *([] if self._present is None else [self._present])]
            self._queue.clear()
            self._changed.notify()
        for request in given_up:
            request.whose.fail(ShuttingDown(WORDS))
        self._thread.join(max(0.0, deadline - time.monotonic()))

    def _next(self) -> PlainRequest | None:
        """The next request, which is the present one then; None where there will be none any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            self._present = self._queue.popleft() if self._queue else None
            return self._present

    def _draw_forever(self) -> None:
        while (request := self._next()) is not None:
            no_memory: str | None = None
            try:
                request.whose.look()
                if not request.whose.over:
                    with within_memory():
                        self._draw(request)
            except Canceled:
                pass  # it is over, and its caller knows why
            except OutOfMemory as error:
                no_memory = error.detail
            except Exception as error:
                request.whose.fail(error)
            if no_memory is not None:
                # Not that error, whose traceback keeps what was computed in memory.
                request.whose.fail(OutOfMemory(no_memory))
            # While the thread waits, nothing of the last drawing stays in memory.
            self._present = None
            del request

    def _draw(self, request: PlainRequest) -> None:
        # Before the turn: a whole fine-tune is read from the disk.
        pipelines = request.pipelines()
        conditioning = None if request.conditioning is None else request.conditioning()
        request.whose.own_scheduler = pipelines.scheduler
        request.whose.truncated_prompt = _cut_off(request, pipelines, conditioning)
        with _Turn(request, self._turns, self._applied) as turn:
            left = list(enumerate(request.seeds))
            shape = (request.drawing.height // SIDE_STEP, request.drawing.width // SIDE_STEP)
            while left:
                batch = left[: self._sizes.limit(shape)]
                latents = self._fitting(request, pipelines, conditioning, [seed for _, seed in batch], turn)
                if latents is None:
                    self._sizes.does_not_fit(shape, len(batch))
                    continue
                for (index, _), one in zip(batch, latents, strict=True):
                    self._decoder.decode(FinishedLatents(request.whose, index, one, pipelines.autoencoder))
                del left[: len(batch)]

    @staticmethod
    def _fitting(
        request: PlainRequest,
        pipelines: PipelineSet,
        conditioning: Conditioning | None,
        seeds: Sequence[int],
        turn: _Turn,
    ) -> Tensor | None:
        """The batch's latents, or None where it does not fit into the memory, but a smaller one may."""
        try:
            with within_memory():
                return _latents(request, pipelines, conditioning, seeds, turn)
        except OutOfMemory:
            if len(seeds) == 1:
                raise
        log.warning("a plain batch did not fit into the device's memory", extra={"pictures": len(seeds)})
        turn.begin_batch_again()
        return None


class _Turn:
    """The device's turn, given away between steps where others want it, and taken again."""

    def __init__(self, request: PlainRequest, turns: Party, applied: MergedAdapters) -> None:
        self._request, self._turns, self._applied = request, turns, applied
        #: Since the turn was taken.
        self._steps = 0
        #: Of all pictures of the present batch.
        self._batch_steps = 0
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

    def begin_batch(self) -> None:
        """Count the steps from here."""
        self._batch_steps = 0

    def begin_batch_again(self) -> None:
        """Take the batch's steps back, which were in vain."""
        self._request.whose.take_back(self._batch_steps)
        self._batch_steps = 0

    def stepped(self, pictures: int) -> None:
        """Tell of a step, and let others step. Raises Canceled where nobody waits any more."""
        whose = self._request.whose
        now = time.perf_counter()
        whose.stepped(pictures, now - self._began)
        self._batch_steps += pictures
        self._began = now
        whose.look()
        if whose.over:
            raise Canceled
        self._steps += 1
        if self._steps >= _TURN_STEPS and self._turns.over:
            self._turns.give_back()
            self._turns.take()
            self._begin()

    def _begin(self) -> None:
        self._steps = 0
        if self._request.adapters is not None:
            with torch.inference_mode():
                self._applied.merge(self._request.adapters)
        self._began = time.perf_counter()


def _cut_off(request: PlainRequest, pipelines: PipelineSet, conditioning: Conditioning | None) -> str | None:
    if conditioning is not None:
        return conditioning.prompt.cut_off
    return cut_off(pipelines.text.tokenizer, request.drawing.prompt)


def _latents(
    request: PlainRequest,
    pipelines: PipelineSet,
    conditioning: Conditioning | None,
    seeds: Sequence[int],
    turn: _Turn,
) -> Tensor:
    """Finished latents of a batch, (pictures, channels, height, width)."""
    drawing = request.drawing
    turn.begin_batch()
    pipeline = pipelines.of(drawing.mode)
    pipeline.scheduler = make_scheduler(drawing.scheduler, pipelines.scheduler_config)
    with ExitStack() as encoding:
        if drawing.mode != "text":
            # The VAE is used until the first step.
            encoding.enter_context(pipelines.autoencoder.lent())

        def watch(_pipeline: Any, step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            encoding.close()
            # Some samplers call the UNet more often than they were asked to take steps.
            calls, steps = pipeline.num_timesteps, drawing.steps_taken
            done = (step + 1) * steps // calls - step * steps // calls
            turn.stepped(len(seeds) * done)
            return values

        # On the CPU also for a GPU: its generator gives the same noise on every machine.
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        latents: Tensor = pipeline(
            **arguments(drawing, len(seeds), conditioning),
            generator=generators,
            callback_on_step_end=watch,
            output_type="latent",
        ).images
    if latents.device.type == "cuda":
        torch.cuda.current_stream(latents.device).synchronize()  # they are decoded in another stream
    return latents
