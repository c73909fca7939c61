"""The engine: one base model in memory, the models trained on it beside, pictures out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from enlight_common.errors import InvalidField, WrongBaseModel

from dreambooth_api.inference.adapters import AdapterCache, ModelKey
from dreambooth_api.inference.picture import Drawn, ModelUse, Picture
from dreambooth_api.inference.pipelines import FullModels, PipelineSet, arguments
from dreambooth_api.inference.queue import Canceled, Stop
from dreambooth_api.inference.request import Drawing, DrawRequest, WeightedModel, settle
from dreambooth_api.inference.schedulers import make_scheduler
from dreambooth_api.models.artifact import Manifest
from dreambooth_api.models.bases import BaseModel, load_pipeline, resolve_base, revision_of
from dreambooth_api.models.store import ModelStore

log = logging.getLogger(__name__)

OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class EngineLimits:
    """What the engine keeps in memory and draws at once."""

    max_adapters: int = 16
    #: An SD 1.5 adapter of rank 4 is 3 MB, one of SDXL at rank 64 some 700 MB.
    max_adapter_bytes: int = 2 * 2**30
    max_full_models: int = 1
    max_batch: int = 8
    #: Four pictures of 512×512: what SD 1.5 draws at once in under 8 GB of fp16.
    max_batch_pixels: int = 4 * 512 * 512


@dataclass(frozen=True)
class Prepared:
    """A request whose models were found and whose settings are decided."""

    drawing: Drawing
    uses: tuple[ModelUse, ...]
    keys: tuple[ModelKey, ...]
    base: BaseModel
    lora_scale: float

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
        self._adapters: AdapterCache | None = None
        self._full = FullModels(store, device, self.dtype, max_count=self.limits.max_full_models)

    def load(self) -> None:
        """Bring the base model into memory; seconds to minutes."""
        pipeline = load_pipeline(self.base, self.dtype)
        # Of a base without a pinned revision it is known only now which one this is.
        self.base = replace(self.base, revision=revision_of(pipeline, self.base))
        pipeline.to(self.device)
        self._base_pipelines = PipelineSet(pipeline)
        self._adapters = AdapterCache(
            pipeline,
            self._store,
            max_count=self.limits.max_adapters,
            max_bytes=self.limits.max_adapter_bytes,
        )

    @property
    def ready(self) -> bool:
        """Whether the base model is in memory."""
        return self._adapters is not None

    @property
    def loaded(self) -> list[ModelKey]:
        """The trained models in memory."""
        return [*(self._adapters.keys if self._adapters else []), *self._full.keys]

    @property
    def cache_counts(self) -> tuple[int, int]:
        """How often a wanted model was (found, not found) in memory."""
        full, adapters = self._full, self._adapters
        if adapters is None:
            return full.hits, full.misses
        return full.hits + adapters.hits, full.misses + adapters.misses

    def prepare(self, request: DrawRequest) -> Prepared:
        """Find the request's models and decide its settings; quick, and fit for any thread.

        Raises:
            UnknownModel: a model is not in the store.
            WrongBaseModel: an adapter was trained on another base than this engine's.
            InvalidField: these models do not go together, or a setting is out of the base's bounds.
        """
        manifests = [self._manifest(wanted, request.tenant) for wanted in request.models]
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
            keys=tuple(ModelKey(request.tenant, found.model_id, found.version) for found in manifests),
            base=base,
            lora_scale=request.lora_scale,
        )

    def _manifest(self, wanted: WeightedModel, tenant: str) -> Manifest:
        with self._store.open(wanted.model_id, tenant) as artifact:
            manifest = artifact.manifest
        if manifest.method == "lora":
            self._check_base(manifest)
        return manifest

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
        prepared = request if isinstance(request, Prepared) else self.prepare(request)
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
        if prepared.full:
            yield self._full.pipelines(prepared.keys[0])
            return
        if self._adapters is None or self._base_pipelines is None:
            raise RuntimeError("the base model is not loaded")
        chosen = [
            (key, use.weight * prepared.lora_scale)
            for key, use in zip(prepared.keys, prepared.uses, strict=True)
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
