"""What the tests of adapters share: small networks, LoRA files as tools write them, and plain diffusers."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from dreambooth_api.inference.lora import AdapterWeights, LayerNames, read_adapter
from dreambooth_api.inference.lora.ldm_names import ldm_names
from dreambooth_api.tiny import PIPELINE_FOLDER
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

MAX_RANK = 64
TOKENS = 7


def tiny_unet() -> Any:
    """The UNet of the tiny Stable Diffusion 1.x."""
    return UNet2DConditionModel.from_pretrained(PIPELINE_FOLDER / "unet").eval()


def small_xl_unet() -> Any:
    """SDXL's UNet with random weights and few channels: the same kinds of blocks in the same order."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=(2, 4, 4),
        use_linear_projection=True,
        cross_attention_dim=24,
        norm_num_groups=8,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=80,
    ).eval()


def small_sd2_unet() -> Any:
    """SD 2.x's UNet with random weights and few channels: linear projections, heads of one size."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        upcast_attention=True,
        cross_attention_dim=24,
        norm_num_groups=8,
    ).eval()


UNETS = {"sd1": tiny_unet, "sd2": small_sd2_unet, "sdxl": small_xl_unet}


def small_text_encoder(seed: int = 0) -> Any:
    """A CLIP text encoder with random weights."""
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=99,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        projection_dim=32,
    )
    return CLIPTextModel(config).eval()


@dataclass(frozen=True)
class Matrices:
    """A layer's LoRA: down (rank, in …), up (out, rank …), and alpha where the tool writes one."""

    down: Tensor
    up: Tensor
    alpha: float | None = None


ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")
PROJECTIONS = ("proj_in", "proj_out")
CONVOLUTIONS = (
    "conv1",
    "conv2",
    "conv_shortcut",
    "downsamplers.0.conv",
    "upsamplers.0.conv",
    "time_emb_proj",
)
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
EVERYTHING = (
    *ATTENTION,
    *FEED_FORWARD,
    *PROJECTIONS,
    *CONVOLUTIONS,
    "conv_in",
    "conv_out",
    "linear_1",
    "linear_2",
)


def random_lora(
    network: nn.Module,
    targets: Iterable[str] = ATTENTION,
    *,
    seed: int = 1,
    rank: int = 4,
    alpha: float | None = None,
    strength: float = 0.15,
) -> dict[str, Matrices]:
    """By path, for all of *network*'s layers whose names end in one of *targets*."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, layer in network.named_modules():
        if not name.endswith(tuple(targets)) or not isinstance(layer, nn.Linear | nn.Conv2d):
            continue
        out, *inputs = layer.weight.shape
        down = torch.randn(rank, *inputs, generator=generator) * strength
        up = torch.randn(out, rank, *[1 for _ in inputs[1:]], generator=generator) * strength
        made[name] = Matrices(down, up, alpha)
    assert made
    return made


def as_diffusers(lora: Mapping[str, Matrices], part: str = "unet") -> dict[str, Tensor]:
    return {
        f"{part}.{name}.lora_{letter}.weight": matrix
        for name, one in lora.items()
        for letter, matrix in (("A", one.down), ("B", one.up))
    }


def as_diffusers_before_peft(lora: Mapping[str, Matrices]) -> dict[str, Tensor]:
    """diffusers 0.18 to 0.21 on, which called them ``lora.down`` and ``lora.up``."""
    return {
        f"unet.{name}.lora.{half}.weight": matrix
        for name, one in lora.items()
        for half, matrix in (("down", one.down), ("up", one.up))
    }


def as_attention_processors(lora: Mapping[str, Matrices]) -> dict[str, Tensor]:
    """diffusers up to 0.17: only attention, in its processors."""
    keys = {}
    for name, one in lora.items():
        attention, _, projection = name.removesuffix(".0").rpartition(".")
        for half, matrix in (("down", one.down), ("up", one.up)):
            keys[f"unet.{attention}.processor.{projection}_lora.{half}.weight"] = matrix
    return keys


def as_kohya(lora: Mapping[str, Matrices], prefix: str = "lora_unet") -> dict[str, Tensor]:
    keys = {}
    for name, one in lora.items():
        stem = f"{prefix}_{name.replace('.', '_')}"
        keys[f"{stem}.lora_down.weight"], keys[f"{stem}.lora_up.weight"] = one.down, one.up
        if one.alpha is not None:
            keys[f"{stem}.alpha"] = torch.tensor(one.alpha)
    return keys


def as_kohya_xl(lora: Mapping[str, Matrices], unet: nn.Module) -> dict[str, Tensor]:
    """kohya's for SDXL: in LDM's numbering of blocks."""
    names = ldm_names(unet)
    return as_kohya({names[name]: one for name, one in lora.items()})


def saved(folder: Path, keys: Mapping[str, Tensor], **metadata: str) -> Path:
    """A safetensors file of *keys*."""
    file = folder / "pytorch_lora_weights.safetensors"
    save_file({key: matrix.contiguous() for key, matrix in keys.items()}, file, metadata or None)
    return file


def read(
    folder: Path, parts: Mapping[str, nn.Module], keys: Mapping[str, Tensor], **metadata: str
) -> AdapterWeights:
    file = saved(folder, keys, **metadata)
    return read_adapter(file, LayerNames.of(parts), max_rank=MAX_RANK, dtype=torch.float32)


def plain_with(unet: Any, *adapters: tuple[Mapping[str, Tensor], float]) -> Any:
    """A copy of *unet* with *adapters*, files' keys and a weight each, by diffusers alone."""
    plain = copy.deepcopy(unet)
    names = []
    for number, (keys, _) in enumerate(adapters):
        converted, alphas = StableDiffusionXLPipeline.lora_state_dict(dict(keys), unet_config=unet.config)
        names.append(f"adapter{number}")
        plain.load_lora_adapter(converted, prefix="unet", network_alphas=alphas, adapter_name=names[-1])
    plain.set_adapters(names, [weight for _, weight in adapters])
    return plain


@dataclass(frozen=True)
class Inputs:
    """A UNet's, by row."""

    latents: Tensor
    timesteps: Tensor
    embeddings: Tensor
    added: Mapping[str, Tensor] | None

    def of(self, rows: slice) -> Inputs:
        added = None if self.added is None else {name: value[rows] for name, value in self.added.items()}
        return Inputs(self.latents[rows], self.timesteps[rows], self.embeddings[rows], added)


#: Most rows that `inputs` gives.
ROWS = 10


def inputs(unet: Any, number: int) -> Inputs:
    """The first *number* of ten rows, which are random and differ."""
    generator, rows = torch.Generator().manual_seed(0), ROWS
    added = None
    if unet.config.addition_embed_type:
        ids = torch.tensor([16.0, 16, 0, 0, 16, 16]).repeat(rows, 1)
        added = {"text_embeds": torch.randn(rows, 32, generator=generator), "time_ids": ids}
    given = Inputs(
        torch.randn(rows, 4, 8, 8, generator=generator),
        torch.randint(0, 1000, (rows,), generator=generator),
        torch.randn(rows, TOKENS, unet.config.cross_attention_dim, generator=generator),
        added,
    )
    return given.of(slice(number))


def forward(unet: Any, given: Inputs) -> Tensor:
    with torch.inference_mode():
        output: Tensor = unet(
            given.latents, given.timesteps, given.embeddings, added_cond_kwargs=given.added, return_dict=False
        )[0]
    return output


def relative_difference(one: Tensor, other: Tensor) -> float:
    """The largest difference, relative to *other*'s largest number."""
    return float((one - other).abs().max() / other.abs().max())
