"""The engine: one base model in memory, the models trained on it beside, pictures out."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from types import TracebackType

import PIL.Image
import torch
from enlight_common.errors import InvalidField, WrongBaseModel
from enlight_common.queue import Stop

from dreambooth_api.inference.denoising.adapters import (
    SLOTS,
    AdapterSet,
    AdapterUse,
    BatchAdapters,
    adapter_set,
)
from dreambooth_api.inference.denoising.batched import BatchedDrawings
from dreambooth_api.inference.denoising.denoiser import Counts
from dreambooth_api.inference.denoising.submission import OnStep, Submission
from dreambooth_api.inference.denoising.turns import Turns
from dreambooth_api.inference.lora import AdapterWeights, LayerNames, LoraLayers, read_adapter
from dreambooth_api.inference.memory import ModelMemory
from dreambooth_api.inference.picture import Drawn, ModelUse, Picture
from dreambooth_api.inference.pipelines import FullModels, PipelineSet
from dreambooth_api.inference.reference import PlainDrawings, PlainRequest
from dreambooth_api.inference.request import Drawing, DrawRequest, settle
from dreambooth_api.models.artifact import LORA_WEIGHTS, Artifact, Manifest
from dreambooth_api.models.bases import BaseModel, load_pipeline, resolve_base, revision_of
from dreambooth_api.models.store import ModelStore

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineLimits:
    """What the engine keeps in memory and draws at once."""

    #: Half of it for adapters and half for whole fine-tunes: an SD 1.5 adapter of rank 4 is 3 MB, one of SDXL
    #: at rank 64 some 700 MB, a whole SD 1.5 in half precision 2 GB.
    max_loaded_bytes: int = 4 * 10**9
    #: An adapter of a higher rank is refused.
    max_rank: int = 128
    max_batch: int = 8
    #: Four pictures of 512×512: what SD 1.5 draws at once in under 8 GB of fp16.
    max_batch_pixels: int = 4 * 512 * 512

    @classmethod
    def for_base(cls, base: BaseModel, device: str, max_loaded_bytes: int) -> EngineLimits:
        """Whole batches of the base's own size on a GPU, where one that does not fit is halved."""
        limits = cls(max_loaded_bytes=max_loaded_bytes)
        if torch.device(device).type != "cuda":
            return limits
        return replace(limits, max_batch_pixels=limits.max_batch * base.resolution**2)


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
    """Draws requests, many at once; any thread may call ``draw``, and waits there for its pictures."""

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
        self.loaded = ModelMemory(self.limits.max_loaded_bytes, device)
        self._store = store
        self._full = FullModels(store.cache, self.loaded.full, device, self.dtype)
        self._parts: _Parts | None = None

    def load(self) -> None:
        """Bring the base model into memory; seconds to minutes."""
        pipeline = load_pipeline(self.base, self.dtype)
        # Of a base without a pinned revision it is known only now which one this is.
        self.base = replace(self.base, revision=revision_of(pipeline, self.base))
        pipeline.to(self.device)
        if torch.device(self.device).type == "cuda":
            # Convolutions in half precision are made for it.
            pipeline.unet.to(memory_format=torch.channels_last)
            pipeline.vae.to(memory_format=torch.channels_last)
        self._parts = _Parts(PipelineSet(pipeline), self.limits)

    @property
    def ready(self) -> bool:
        """Whether the base model is in memory."""
        return self._parts is not None

    @property
    def counts(self) -> Counts:
        """What was stepped so far, and is being stepped. Fit for any thread."""
        return Counts() if self._parts is None else self._parts.batched.counts

    def close(self) -> None:
        """End the engine's threads, once nothing is being drawn any more."""
        if self._parts is not None:
            self._parts.batched.close()

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
        self,
        request: DrawRequest | Prepared,
        *,
        stop: Stop = lambda: False,
        on_step: OnStep | None = None,
        deadline_s: float | None = None,
    ) -> Drawn:
        """Draw all pictures of *request*.

        *stop* is asked between steps. *on_step* is told (steps done, steps in all), counted by picture. Both
        may be called from another thread, and should be quick: everyone's next step waits for them.
        *deadline_s* is how many seconds from now all of it may take.

        Raises:
            Canceled: *stop* said yes.
            TimedOut: the deadline passed.
            BadAdapter: an adapter's file does not fit the base model, or its rank is above the bound.
            OutOfMemory: a single picture of this size does not fit into the device's memory.
            UnknownModel, WrongBaseModel, InvalidField: as in ``prepare``.
        """
        if isinstance(request, DrawRequest):
            with self.prepare(request) as prepared:
                return self.draw(prepared, stop=stop, on_step=on_step, deadline_s=deadline_s)
        if self._parts is None:
            raise RuntimeError("the base model is not loaded")
        drawing = request.drawing
        whose = Submission(drawing.num_image, stop=stop, on_step=on_step, deadline_s=deadline_s)
        seeds = [drawing.seed + number for number in range(drawing.num_image)]
        images, own_scheduler = self._images(self._parts, request, seeds, whose)
        return Drawn(
            pictures=tuple(Picture(image, seed) for image, seed in zip(images, seeds, strict=True)),
            drawing=drawing,
            models=request.uses,
            base=request.base.name,
            scheduler=drawing.scheduler or own_scheduler,
            lora_scale=request.lora_scale,
            truncated_prompt=whose.truncated_prompt,
            device_seconds=whose.device_seconds,
        )

    def _images(
        self, parts: _Parts, prepared: Prepared, seeds: list[int], whose: Submission
    ) -> tuple[list[PIL.Image.Image], str]:
        """The pictures, and the class of the scheduler that the model itself comes with."""
        drawing = prepared.drawing
        if prepared.full:
            return self._of_a_fine_tune(parts, prepared, seeds, whose)
        adapters = self._adapters_of(parts, prepared)
        own_scheduler = str(parts.pipelines.scheduler_config["_class_name"])
        trajectory = parts.batched.trajectory(drawing)
        if trajectory is not None:
            return parts.batched.draw(drawing, seeds, trajectory, adapters, whose), own_scheduler
        conditioning = parts.batched.conditioning(drawing, adapters)
        request = PlainRequest(drawing, seeds, lambda: parts.pipelines, adapters, conditioning, whose)
        return parts.plain.draw(request), own_scheduler

    def _of_a_fine_tune(
        self, parts: _Parts, prepared: Prepared, seeds: list[int], whose: Submission
    ) -> tuple[list[PIL.Image.Image], str]:
        own: list[PipelineSet] = []

        def pipelines() -> PipelineSet:
            own[:] = [self._full.pipelines(prepared.artifacts[0])]
            return own[0]

        images = parts.plain.draw(PlainRequest(prepared.drawing, seeds, pipelines, None, None, whose))
        return images, str(own[0].scheduler_config["_class_name"])

    def _adapters_of(self, parts: _Parts, prepared: Prepared) -> AdapterSet:
        """The request's adapters, from memory or from their files."""
        return adapter_set(
            [
                AdapterUse(
                    artifact.manifest.key,
                    self._weights_of(artifact, parts.names),
                    use.weight * prepared.lora_scale,
                )
                for artifact, use in zip(prepared.artifacts, prepared.uses, strict=True)
            ]
        )

    def _weights_of(self, artifact: Artifact, names: LayerNames) -> AdapterWeights:
        def load() -> AdapterWeights:
            with self._store.cache.hashed(artifact) as right:
                return read_adapter(
                    right.folder / LORA_WEIGHTS, names, max_rank=self.limits.max_rank, dtype=self.dtype
                )

        return self.loaded.adapters.get(artifact.manifest.key, load)


class _Parts:
    """What a loaded base model is drawn with."""

    def __init__(self, pipelines: PipelineSet, limits: EngineLimits) -> None:
        bounds = {"max_batch": limits.max_batch, "max_batch_pixels": limits.max_batch_pixels}
        turns = Turns()
        applied = BatchAdapters(LoraLayers(pipelines.text.unet, slots=SLOTS, units=limits.max_batch))
        self.pipelines = pipelines
        self.names = LayerNames.of_pipeline(pipelines.text)
        self.batched = BatchedDrawings(pipelines, applied, turns, **bounds)
        self.plain = PlainDrawings(turns, applied, self.batched.decoder, **bounds)


def _dtype_for(device: str) -> torch.dtype:
    """fp32 on the CPU, where half is slower; bf16 on GPUs that have it: SDXL's VAE overflows in fp16."""
    if device == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
