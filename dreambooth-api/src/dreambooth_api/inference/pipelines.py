"""diffusers pipelines: three ways of drawing with one set of weights, and whole fine-tunes kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import diffusers
import PIL.ImageOps
from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting

from dreambooth_api.inference.denoising.autoencoder import Autoencoder
from dreambooth_api.inference.denoising.conditioning import Conditioning
from dreambooth_api.inference.loaded import LoadedModels
from dreambooth_api.inference.request import Drawing, Mode
from dreambooth_api.models.artifact import Artifact
from dreambooth_api.models.cache.model_cache import ModelCache

if TYPE_CHECKING:
    import PIL.Image
    import torch


@dataclass
class PipelineSet:
    """One model's text, image and inpaint pipelines, sharing all their weights."""

    text: Any
    autoencoder: Autoencoder = field(init=False)
    #: The model's own scheduler configuration; each drawing makes a fresh scheduler from it.
    scheduler_config: Any = field(init=False)
    _others: dict[Mode, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.text.set_progress_bar_config(disable=True)
        self.autoencoder = Autoencoder(self.text)
        self.scheduler_config = self.text.scheduler.config

    def of(self, mode: Mode) -> Any:
        """The pipeline for *mode*, made at its first use."""
        if mode == "text":
            return self.text
        if mode not in self._others:
            maker = AutoPipelineForImage2Image if mode == "image" else AutoPipelineForInpainting
            pipeline = maker.from_pipe(self.text)
            pipeline.set_progress_bar_config(disable=True)
            self._others[mode] = pipeline
        return self._others[mode]

    @property
    def scheduler(self) -> str:
        """The class of the model's own scheduler."""
        return str(self.scheduler_config["_class_name"])

    @property
    def bytes(self) -> int:
        """What its weights take in memory."""
        parts = [part for part in self.text.components.values() if hasattr(part, "parameters")]
        return sum(weight.numel() * weight.element_size() for part in parts for weight in part.parameters())


def arguments(drawing: Drawing, pictures: int, conditioning: Conditioning | None = None) -> dict[str, Any]:
    """Keyword arguments that draw *pictures* pictures of *drawing* in one batch.

    With *conditioning* the pipeline's own text encoders are not used.

    Each picture gets its own prompt and image in the batch, not ``num_images_per_prompt``: diffusers then
    takes every random number of picture *i*, the encoded image's included, from generator *i*, so that a
    picture does not depend on its place in the batch.
    """
    common: dict[str, Any] = {
        **_texts(drawing, pictures, conditioning),
        "num_inference_steps": drawing.steps,
        "guidance_scale": drawing.guidance_scale,
    }
    size = (drawing.width, drawing.height)
    if drawing.image is None:
        return common | {"width": size[0], "height": size[1]}
    common |= {"image": [fitted(drawing.image, size)] * pictures, "strength": drawing.strength}
    if drawing.mask is not None:
        mask = fitted(drawing.mask.convert("L"), size)
        common |= {"mask_image": [mask] * pictures, "width": size[0], "height": size[1]}
    return common


def _texts(drawing: Drawing, pictures: int, conditioning: Conditioning | None) -> dict[str, Any]:
    if conditioning is None:
        return {
            "prompt": [drawing.prompt] * pictures,
            "negative_prompt": [drawing.negative_prompt] * pictures,
        }
    given: dict[str, Any] = {}
    for prefix, text in (("", conditioning.prompt), ("negative_", conditioning.negative)):
        if text is not None:
            given[f"{prefix}prompt_embeds"] = text.embeddings.expand(pictures, -1, -1)
            if text.pooled is not None:
                given[f"{prefix}pooled_prompt_embeds"] = text.pooled.expand(pictures, -1)
    return given


def fitted(image: PIL.Image.Image, size: tuple[int, int]) -> PIL.Image.Image:
    """Scaled to cover *size* and cropped around the centre, so that nothing is squeezed."""
    return PIL.ImageOps.fit(image, size)


class FullModels:
    """Whole fine-tunes. Not thread-safe: the one thread of the plain drawings uses it."""

    def __init__(
        self, cache: ModelCache, loaded: LoadedModels[PipelineSet], device: str, dtype: torch.dtype
    ) -> None:
        self._cache = cache
        self._loaded = loaded
        self._device = device
        self._dtype = dtype

    def pipelines(self, artifact: Artifact) -> PipelineSet:
        """The pipelines of an open artifact, from memory or from its files.

        Raises:
            StoreUnavailable, StoreCorrupt, StorageFull: it was damaged, and could not be fetched again.
        """
        self._loaded.drop_deleted()
        key = artifact.manifest.key
        found = self._loaded.find(key)
        if found is not None:
            return found
        # A guess: its files may hold another precision than it is drawn with.
        self._loaded.make_room(artifact.bytes)
        with self._cache.hashed(artifact) as right:
            pipeline = diffusers.DiffusionPipeline.from_pretrained(
                str(right.folder),
                dtype=self._dtype,
                use_safetensors=True,
                local_files_only=True,
            ).to(self._device)
        pipelines = PipelineSet(pipeline)
        self._loaded.put(key, pipelines, pipelines.bytes)
        return pipelines
