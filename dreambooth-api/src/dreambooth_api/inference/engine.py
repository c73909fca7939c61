"""The engine: one base model in memory, the models trained on it beside, pictures out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from enlight_common.errors import InvalidField, ShuttingDown, WrongBaseModel
from enlight_common.leaving import WORDS

from dreambooth_api.inference.caller import PATIENT, Caller, Errands
from dreambooth_api.inference.denoising.adapter_sets import NO_ADAPTERS, AdapterSet, AdapterUse, adapter_set
from dreambooth_api.inference.denoising.batch_sizes import BatchSizes
from dreambooth_api.inference.denoising.compiled_blocks import CompilerFailed
from dreambooth_api.inference.denoising.denoiser import Counts
from dreambooth_api.inference.denoising.kept_figures import KeptFigures, running_on
from dreambooth_api.inference.denoising.submission import OnStep, Submission
from dreambooth_api.inference.lora import AdapterWeights, LayerNames, read_adapter
from dreambooth_api.inference.memory import ModelMemory
from dreambooth_api.inference.parts import Parts
from dreambooth_api.inference.picture import Drawn, ModelUse, Picture
from dreambooth_api.inference.pipelines import FullModels, PipelineSet
from dreambooth_api.inference.prepared import Prepared
from dreambooth_api.inference.reference import PlainRequest
from dreambooth_api.inference.request import SIDE_STEP, DrawRequest, settle
from dreambooth_api.inference.within_memory import within_memory
from dreambooth_api.models.artifact import LORA_WEIGHTS, Artifact, Manifest
from dreambooth_api.models.bases import BaseModel, load_pipeline, resolve_base, revision_of
from dreambooth_api.models.store import ModelStore

log = logging.getLogger(__name__)

#: Downloads and readings that go on without the client they were for, each in a thread of its own.
_ABANDONED = 16


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
    #: Of the memory that is free once the base is loaded, what whole weights of a batch's adapters may take:
    #: a batch of 8 SD 1.5 pictures with 8 adapters takes 14 GB in half precision. The rest is for what a step
    #: computes, which grows with the batch, too.
    batch_memory_share: float = 0.4

    @classmethod
    def for_base(
        cls, base: BaseModel, device: str, max_loaded_bytes: int, batch_memory_share: float
    ) -> EngineLimits:
        """Whole batches of the base's own size on a GPU, where one that does not fit is halved."""
        limits = cls(max_loaded_bytes=max_loaded_bytes, batch_memory_share=batch_memory_share)
        if torch.device(device).type != "cuda":
            return limits
        return replace(limits, max_batch_pixels=limits.max_batch * base.resolution**2)


#: Whether the UNet's blocks are compiled: `auto` for on a GPU and where it pays, which is measured.
CompileUnet = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class _Opened:
    artifacts: list[Artifact]
    held: ExitStack


class Engine:
    """Draws requests, many at once; any thread may call ``draw``, and waits there for its pictures."""

    def __init__(
        self,
        base: BaseModel,
        store: ModelStore,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        limits: EngineLimits | None = None,
        figures_folder: Path | None = None,
        compile_unet: CompileUnet = "off",
    ) -> None:
        """*figures_folder*: where is kept over restarts what was learned about batches; None for nowhere.
        *compile_unet*: whether its blocks are compiled by ``load``.
        """
        self._compile_unet = compile_unet
        #: Whether the UNet's blocks are compiled now, and whether they should be and could not.
        self.is_compiled = self.compiling_failed = False
        self._figures_folder = figures_folder
        self.base = base
        self.device = device
        self.dtype = dtype or _dtype_for(device)
        self.limits = limits or EngineLimits()
        self.loaded = ModelMemory(self.limits.max_loaded_bytes, device)
        self._store = store
        self._full = FullModels(store.cache, self.loaded.full, device, self.dtype)
        self._errands = Errands(_ABANDONED)
        self._parts: Parts | None = None
        self._closed = False

    def load(self, compiling: Callable[[], object] = lambda: None) -> None:
        """Bring the base model into memory; seconds to minutes. *compiling* is told when its blocks are
        being compiled, after which the first load of a base on a machine takes minutes more.
        """
        pipeline = load_pipeline(self.base, self.dtype)
        # Of a base without a pinned revision it is known only now which one this is.
        self.base = replace(self.base, revision=revision_of(pipeline, self.base))
        pipeline.to(self.device)
        if torch.device(self.device).type == "cuda":
            # Convolutions in half precision are made for it.
            pipeline.unet.to(memory_format=torch.channels_last)
            pipeline.vae.to(memory_format=torch.channels_last)
        figures = None
        if self._figures_folder is not None:
            runs = running_on(self.base, pipeline.device, self.dtype)
            if self._compile_unet != "off":
                runs["compile_unet"] = self._compile_unet
            figures = KeptFigures(self._figures_folder, runs)
        limits = self.limits
        sizes = BatchSizes(limits.max_batch, limits.max_batch_pixels // SIDE_STEP**2)
        parts = Parts(PipelineSet(pipeline), sizes, limits.max_batch, limits.batch_memory_share, figures)
        on_a_gpu = torch.device(self.device).type == "cuda"
        if self._compile_unet == "on" or (self._compile_unet == "auto" and on_a_gpu):
            compiling()
            must_pay = self._compile_unet == "auto"
            try:
                self.is_compiled = parts.compile(settle(DrawRequest(""), self.base), must_pay=must_pay)
            except Exception as error:
                # Pictures are drawn as well without.
                told = isinstance(error, CompilerFailed)
                log.warning("the UNet's blocks are not compiled: %s", error, exc_info=not told)
                self.compiling_failed = True
        self._parts = parts

    @property
    def ready(self) -> bool:
        """Whether the base model is in memory."""
        return self._parts is not None

    @property
    def counts(self) -> Counts:
        """What was stepped so far, and is being stepped. Fit for any thread."""
        parts = self._parts  # once: `close` takes it away
        return Counts() if parts is None else parts.batched.counts

    def close(self, timeout_s: float = 3.0) -> None:
        """End the engine's threads, and forget its models. What is still being drawn is given up: its callers
        get ShuttingDown. Its threads have *timeout_s* seconds together to end their present steps.
        """
        self._closed = True
        parts, self._parts = self._parts, None
        if parts is not None:
            deadline = time.monotonic() + timeout_s
            parts.plain.close(deadline)
            parts.batched.close(deadline)
        self.loaded.clear()

    def prepare(self, request: DrawRequest, caller: Caller = PATIENT) -> Prepared:
        """Have the request's models at hand, fetching those that are not, and decide its settings.

        Fit for any thread. What it gives is to be closed.

        Raises:
            Canceled, TimedOut: *caller* waits no more; what others wait for is fetched all the same.
            UnknownModel: a model is not in the store.
            StoreUnavailable, StoreCorrupt, StorageFull, TimedOut: a model could not be fetched.
            WrongBaseModel: an adapter was trained on another base than this engine's.
            InvalidField: these models do not go together, or a setting is out of the base's bounds.
        """
        opened = self._open(request, caller)
        with opened.held as held:
            prepared = self._prepared(request, opened.artifacts)
            prepared.held.enter_context(held.pop_all())
            return prepared

    def _open(self, request: DrawRequest, caller: Caller) -> _Opened:
        """The request's models, open until ``held`` is closed."""

        def open_all() -> _Opened:
            with ExitStack() as held:
                artifacts = [
                    held.enter_context(self._store.open(wanted.model_id, request.tenant))
                    for wanted in request.models
                ]
                return _Opened(artifacts, held.pop_all())

        if not request.models:
            return open_all()
        return self._errands.run(open_all, caller, lambda opened: opened.held.close())

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
        self, request: DrawRequest | Prepared, caller: Caller = PATIENT, *, on_step: OnStep | None = None
    ) -> Drawn:
        """Draw all pictures of *request*.

        *on_step* is told (steps done, steps in all), counted by picture, from another thread, and should be
        quick: everyone's next step waits for it.

        Raises:
            Canceled, TimedOut: *caller* waits no more.
            BadAdapter: an adapter's file does not fit the base model, or its rank is above the bound.
            OutOfMemory: a single picture of this size does not fit into the device's memory.
            ShuttingDown: the engine was closed.
            UnknownModel, WrongBaseModel, InvalidField: as in ``prepare``.
        """
        if isinstance(request, DrawRequest):
            with self.prepare(request, caller) as prepared:
                return self.draw(prepared, caller, on_step=on_step)
        whose = Submission(request.drawing.num_image, caller, on_step=on_step)
        self.start(request, caller, whose)
        images = whose.result()
        seed = request.drawing.seed
        return Drawn(
            recipe=request.recipe(whose),
            pictures=tuple(Picture(image, seed + number) for number, image in enumerate(images)),
            truncated_prompt=whose.truncated_prompt,
            device_seconds=whose.device_seconds,
        )

    def start(self, prepared: Prepared, caller: Caller, whose: Submission) -> None:
        """Begin to draw *prepared*, which has to stay open until *whose* pictures are there; raises as
        ``draw``.
        """
        parts = self._parts
        if parts is None:
            raise ShuttingDown(WORDS) if self._closed else RuntimeError("the base model is not loaded")
        drawing = prepared.drawing
        seeds = [drawing.seed + number for number in range(drawing.num_image)]
        if prepared.full:
            parts.plain.start(PlainRequest(drawing, seeds, self._of_a_fine_tune(prepared), None, None, whose))
            return
        adapters = self._adapters_of(parts, prepared, caller)
        whose.own_scheduler = parts.pipelines.scheduler
        trajectory = parts.batched.trajectory(drawing)
        if trajectory is not None:
            parts.batched.start(drawing, seeds, trajectory, adapters, whose)
            return
        parts.plain.start(
            PlainRequest(
                drawing,
                seeds,
                lambda: parts.pipelines,
                adapters,
                lambda: parts.batched.conditioning(drawing, adapters),
                whose,
            )
        )

    def _of_a_fine_tune(self, prepared: Prepared) -> Callable[[], PipelineSet]:
        return lambda: self._full.pipelines(prepared.artifacts[0])

    def _adapters_of(self, parts: Parts, prepared: Prepared, caller: Caller) -> AdapterSet:
        """The request's adapters, from memory or from their files."""

        def read() -> AdapterSet:
            with within_memory():
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

        return self._errands.run(read, caller) if prepared.artifacts else NO_ADAPTERS

    def _weights_of(self, artifact: Artifact, names: LayerNames) -> AdapterWeights:
        def load() -> AdapterWeights:
            with self._store.cache.hashed(artifact) as right:
                return read_adapter(
                    right.folder / LORA_WEIGHTS, names, max_rank=self.limits.max_rank, dtype=self.dtype
                )

        return self.loaded.adapters.get(artifact.manifest.key, load)


def _dtype_for(device: str) -> torch.dtype:
    """fp32 on the CPU, where half is slower; bf16 on GPUs that have it: SDXL's VAE overflows in fp16."""
    if device == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
