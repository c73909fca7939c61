"""The engine: one base model in memory, the models trained on it beside, pictures out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import torch
from enlight_common.errors import InvalidField, WrongBaseModel
from enlight_common.queue import Canceled, Stop

from dreambooth_api.inference.adapters import Adapters
from dreambooth_api.inference.loaded import LoadedModels
from dreambooth_api.inference.picture import Drawn, ModelUse, Picture
from dreambooth_api.inference.pipelines import FullModels, PipelineSet, arguments
from dreambooth_api.inference.request import Drawing, DrawRequest, settle
from dreambooth_api.inference.schedulers import make_scheduler
from dreambooth_api.models.artifact import Artifact, Manifest
from dreambooth_api.models.bases import BaseModel, load_pipeline, resolve_base, revision_of
from dreambooth_api.models.store import ModelStore

log = logging.getLogger(__name__)

OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class EngineLimits:
    """What the engine keeps in memory and draws at once."""

    #: An SD 1.5 adapter of rank 4 is 3 MB, one of SDXL at rank 64 some 700 MB, a whole SD 1.5 in half
    #: precision 2 GB.
    max_loaded_bytes: int = 4 * 10**9
    #: Every adapter is some hundred small modules of the pipeline.
    max_loaded: int = 64
    max_batch: int = 8
    #: Four pictures of 512×512: what SD 1.5 draws at once in under 8 GB of fp16.
    max_batch_pixels: int = 4 * 512 * 512


@dataclass(frozen=True)
class Prepared:
    """A request whose models are at hand, and stay so until the context ends, and whose settings are
    decided.
    """

    drawing: Drawing
    uses: tuple[ModelUse, ...]
    artifacts: tuple[Artifact, ...]
    base: BaseModel
    lora_scale: float
    held: ExitStack = field(default_factory=ExitStack, compare=False, repr=False)

    def __enter__(self) -> Prepared:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.held.close()

    @property
    def full(self) -> bool:
        """Whether it is drawn by a whole fine-tune instead of the base model with adapters."""
        return bool(self.uses) and self.uses[0].method == "full"


class Engine:
    """Draws requests one at a time; ``draw`` may be called from any thread and waits for its turn."""

    def __init__(
        self,
        base: BaseModel,
        store: ModelStore,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        limits: EngineLimits | None = None,
    ) -> None:
        self.base = base
        self.device = device
        self.dtype = dtype or _dtype_for(device)
        self.limits = limits or EngineLimits()
        self._store = store
        self._drawing = threading.Lock()
        self._base_pipelines: PipelineSet | None = None
        self.loaded = LoadedModels(self.limits.max_loaded_bytes, self.limits.max_loaded)
        self._adapters: Adapters | None = None
        self._full = FullModels(store.cache, self.loaded, device, self.dtype)

    def load(self) -> None:
        """Bring the base model into memory; seconds to minutes."""
        pipeline = load_pipeline(self.base, self.dtype)
        # Of a base without a pinned revision it is known only now which one this is.
        self.base = replace(self.base, revision=revision_of(pipeline, self.base))
        pipeline.to(self.device)
        self._base_pipelines = PipelineSet(pipeline)
        self._adapters = Adapters(pipeline, self._store.cache, self.loaded)

    @property
    def ready(self) -> bool:
        """Whether the base model is in memory."""
        return self._adapters is not None

    def prepare(self, request: DrawRequest) -> Prepared:
        """Have the request's models at hand, fetching those that are not, and decide its settings.

        Fit for any thread. What it gives is to be closed.

        Raises:
            UnknownModel: a model is not in the store.
            StoreUnavailable, StoreCorrupt, StorageFull, TimedOut: a model could not be fetched.
            WrongBaseModel: an adapter was trained on another base than this engine's.
            InvalidField: these models do not go together, or a setting is out of the base's bounds.
        """
        with ExitStack() as held:
            artifacts = [
                held.enter_context(self._store.open(wanted.model_id, request.tenant))
                for wanted in request.models
            ]
            prepared = self._prepared(request, artifacts)
            prepared.held.enter_context(held.pop_all())
            return prepared

    def _prepared(self, request: DrawRequest, artifacts: list[Artifact]) -> Prepared:
        manifests = [artifact.manifest for artifact in artifacts]
        for manifest in manifests:
            if manifest.method == "lora":
                self._check_base(manifest)
        base = self.base
        if any(manifest.method == "full" for manifest in manifests):
            if len(manifests) > 1:
                raise InvalidField("models", "a full fine-tune is drawn alone, only adapters go together")
            base = resolve_base(manifests[0].base.name)
        return Prepared(
            drawing=settle(request, base),
            uses=tuple(
                ModelUse(manifest.model_id, manifest.version, manifest.method, wanted.weight)
                for manifest, wanted in zip(manifests, request.models, strict=True)
            ),
            artifacts=tuple(artifacts),
            base=base,
            lora_scale=request.lora_scale,
        )

    def _check_base(self, manifest: Manifest) -> None:
        theirs, ours = manifest.base, self.base
        if theirs.name != ours.name:
            reason = f"this adapter was trained on {theirs.name}, this service draws with {ours.name}"
            raise WrongBaseModel(f"model_id: {reason}", field="model_id")
        if theirs.revision and ours.revision and theirs.revision != ours.revision:
            reason = f"this adapter was trained on another revision of {ours.name} than this service's"
            raise WrongBaseModel(f"model_id: {reason}", field="model_id")

    def draw(
        self, request: DrawRequest | Prepared, *, stop: Stop = lambda: False, on_step: OnStep | None = None
    ) -> Drawn:
        """Draw all pictures of *request*.

        *stop* is asked between steps. *on_step* is told (steps done, steps in all), counted by picture.

        Raises:
            Canceled: *stop* said yes.
            UnknownModel, WrongBaseModel, InvalidField: as in ``prepare``.
        """
        if isinstance(request, DrawRequest):
            with self.prepare(request) as prepared:
                return self.draw(prepared, stop=stop, on_step=on_step)
        prepared = request
        drawing = prepared.drawing
        with self._drawing, self._pipelines(prepared) as pipelines:
            pipeline = pipelines.of(drawing.mode)
            pictures: list[Picture] = []
            for seeds in self._batches(drawing):
                if stop():
                    raise Canceled
                watch = _watch(stop, on_step, drawing, done=len(pictures), batch=len(seeds))
                pipeline.scheduler = make_scheduler(drawing.scheduler, pipelines.scheduler_config)
                pictures += self._draw_batch(pipeline, drawing, seeds, watch)
            return Drawn(
                pictures=tuple(pictures),
                drawing=drawing,
                models=prepared.uses,
                base=prepared.base.name,
                scheduler=drawing.scheduler or type(pipeline.scheduler).__name__,
                lora_scale=prepared.lora_scale,
                truncated_prompt=pipelines.cut_off(drawing.prompt),
            )

    @contextmanager
    def _pipelines(self, prepared: Prepared) -> Iterator[PipelineSet]:
        """The pipelines that draw *prepared*, its adapters switched on while the context lasts."""
        self.loaded.drop_deleted()
        if prepared.full:
            yield self._full.pipelines(prepared.artifacts[0])
            return
        if self._adapters is None or self._base_pipelines is None:
            raise RuntimeError("the base model is not loaded")
        chosen = [
            (artifact, use.weight * prepared.lora_scale)
            for artifact, use in zip(prepared.artifacts, prepared.uses, strict=True)
        ]
        with self._adapters.active(chosen):
            yield self._base_pipelines

    def _batches(self, drawing: Drawing) -> Iterator[list[int]]:
        """The pictures' seeds, a batch at a time."""
        fitting = self.limits.max_batch_pixels // (drawing.width * drawing.height)
        size = max(1, min(self.limits.max_batch, fitting))
        seeds = [drawing.seed + number for number in range(drawing.num_image)]
        for start in range(0, len(seeds), size):
            yield seeds[start : start + size]

    @staticmethod
    def _draw_batch(pipeline: Any, drawing: Drawing, seeds: list[int], watch: Any) -> list[Picture]:
        # On the CPU also for a GPU: its generator gives the same noise on every machine.
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        images = pipeline(
            **arguments(drawing, len(seeds)), generator=generators, callback_on_step_end=watch
        ).images
        return [Picture(image, seed) for image, seed in zip(images, seeds, strict=True)]


def _dtype_for(device: str) -> torch.dtype:
    """fp32 on the CPU, where half is slower; bf16 on GPUs that have it: SDXL's VAE overflows in fp16."""
    if device == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _watch(stop: Stop, on_step: OnStep | None, drawing: Drawing, *, done: int, batch: int) -> Any:
    """diffusers' ``callback_on_step_end`` for a batch after *done* pictures: asks *stop*, tells *on_step*."""
    in_all = drawing.num_image * drawing.steps

    def watch(_pipeline: Any, step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        # An exception and not diffusers' `_interrupt`, which would still decode the half-drawn pictures.
        if stop():
            raise Canceled
        if on_step is not None:
            on_step(done * drawing.steps + min(step + 1, drawing.steps) * batch, in_all)
        return values

    return watch
