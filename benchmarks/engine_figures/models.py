"""What is drawn with: a base model and as many adapters as a figure asks for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import diffusers
import torch
from dreambooth_api.inference.engine import Engine, EngineLimits
from dreambooth_api.models.artifact import LORA_WEIGHTS, BaseReference, Manifest, now
from dreambooth_api.models.bases import TINY, BaseModel, load_pipeline, resolve_base
from dreambooth_api.models.store import ModelStore, open_store
from dreambooth_api.tiny import PIPELINE_FOLDER
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

RANK = 8
#: Pictures at once in the figures with many.
TOGETHER = 8
_ADAPTED = ("to_q", "to_k", "to_v", "to_out.0")
_STORE_BYTES = 10**11

#: The published configurations of SD 1.5 and SDXL base 1.0, where they differ from diffusers' defaults.
_UNETS: dict[str, dict[str, Any]] = {
    "sd15": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
_CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_CLIP_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
}


@contextmanager
def workbench(size: str, device: str) -> Iterator[Workbench]:
    """An engine with a base model of *size* (``tiny``, ``sd15``, ``sdxl``), in a folder that is removed."""
    with TemporaryDirectory() as place:
        folder = Path(place)
        if size == "tiny":
            base = resolve_base(TINY)
        else:
            _make_full_size(size, folder / "bases" / size, device)
            os.environ["BASE_MODELS_DIR"] = str(folder / "bases")
            base = resolve_base(size)
        store = open_store((folder / "models").as_uri(), folder / "cache", _STORE_BYTES)
        limits = EngineLimits(max_batch=TOGETHER, max_batch_pixels=TOGETHER * base.resolution**2)
        engine = Engine(base, store, device, limits=limits)
        engine.load()
        bench = Workbench(base, engine, store)
        try:
            yield bench
        finally:
            bench.close()


class Workbench:
    """One base model, in our engine and for plain pipelines, and a store of adapters for it."""

    def __init__(self, base: BaseModel, engine: Engine, store: ModelStore) -> None:
        self.base, self.engine, self._store = base, engine, store
        self._published = 0
        self._compiled: Engine | None = None
        with torch.device("meta"):
            config = diffusers.UNet2DConditionModel.load_config(Path(base.source) / "unet")
            unet = diffusers.UNet2DConditionModel.from_config(config)
        self._layers = {
            name: (module.in_features, module.out_features)
            for name, module in unet.named_modules()
            if isinstance(module, torch.nn.Linear) and name.endswith(_ADAPTED)
        }

    def compiled_engine(self) -> Engine | None:
        """One whose UNet's blocks are compiled, or None where they cannot be. Minutes on a CPU."""
        if self.engine.is_compiled:
            return self.engine
        if self._compiled is None:
            limits, device = self.engine.limits, self.engine.device
            self._compiled = Engine(self.base, self._store, device, limits=limits, compile_unet="on")
            self._compiled.load()
        return self._compiled if self._compiled.is_compiled else None

    def close(self) -> None:
        """End the engines."""
        for engine in (self.engine, self._compiled):
            if engine is not None:
                engine.close()

    def plain_pipeline(self) -> Any:
        """diffusers' own pipeline with weights of its own."""
        pipeline = load_pipeline(self.base, self.engine.dtype).to(self.engine.device)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def adapter(self) -> tuple[str, Path]:
        """A new LoRA of the UNet's attention with random weights: its id, and the folder of its file."""
        self._published += 1
        generator = torch.Generator().manual_seed(self._published)
        weights = {}
        for name, (inputs, outputs) in self._layers.items():
            down = torch.randn((RANK, inputs), generator=generator) / inputs**0.5
            up = torch.randn((outputs, RANK), generator=generator) * 0.02
            weights[f"unet.{name}.lora_A.weight"] = down.to(self.engine.dtype)
            weights[f"unet.{name}.lora_B.weight"] = up.to(self.engine.dtype)
        manifest = Manifest(
            tenant="default",
            model_id=f"adapter{self._published}",
            method="lora",
            base=BaseReference(name=self.base.name, revision=self.engine.base.revision),
            instance_prompt="a sks boat",
            created_at=now(),
        )
        with TemporaryDirectory() as folder:
            save_file(weights, Path(folder) / LORA_WEIGHTS)
            self._store.publish(Path(folder), manifest)
        # On this machine's disk from here on, for both sides.
        with self._store.open(manifest.model_id) as artifact:
            return manifest.model_id, artifact.folder


def _make_full_size(size: str, folder: Path, device: str) -> None:
    """A pipeline of the real size with random weights, and the tiny one's tokenizer and schedule."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    tiny = diffusers.StableDiffusionPipeline.from_pretrained(PIPELINE_FOLDER)
    marks = {name: getattr(tiny.text_encoder.config, name) for name in ("bos_token_id", "eos_token_id")}
    torch.manual_seed(0)
    with torch.device(device):
        parts: dict[str, Any] = {
            "unet": diffusers.UNet2DConditionModel(**_UNETS[size]),
            "vae": diffusers.AutoencoderKL(**_VAE, sample_size=8 * _UNETS[size]["sample_size"]),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**_CLIP_L, **marks)),
        }
        if size == "sdxl":
            parts["text_encoder_2"] = CLIPTextModelWithProjection(CLIPTextConfig(**_CLIP_G, **marks))
    parts = {name: part.to(dtype=dtype) for name, part in parts.items()}
    parts |= {"tokenizer": tiny.tokenizer, "scheduler": tiny.scheduler}
    if size == "sdxl":
        pipeline = diffusers.StableDiffusionXLPipeline(**parts, tokenizer_2=tiny.tokenizer)
    else:
        pipeline = diffusers.StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipeline.save_pretrained(folder)
    shutil.copytree(PIPELINE_FOLDER / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
