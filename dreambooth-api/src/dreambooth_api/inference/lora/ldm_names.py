"""The names that a Stable Diffusion UNet's layers have in the LDM code base, which kohya uses for SDXL.

There the down blocks are one list, ``input_blocks``: the first convolution, then each residual block with
its attention, and each downsampler. ``output_blocks`` are counted the same way up, an upsampler being part
of the block before it. Source: CompVis/latent-diffusion, ``ldm/modules/diffusionmodules/openaimodel.py``.
"""

from __future__ import annotations

from torch import nn

_ENDS = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
# The names inside a block; attentions and upsamplers have the same in both.
_INNER = {
    "resnets": {
        "conv1": "in_layers.2",
        "conv2": "out_layers.3",
        "time_emb_proj": "emb_layers.1",
        "conv_shortcut": "skip_connection",
    },
    "downsamplers": {"conv": "op"},
}


def ldm_names(unet: nn.Module) -> dict[str, str]:
    """LDM's name of each of *unet*'s layers by diffusers' name for it; empty for another network."""
    if not hasattr(unet, "down_blocks") or not hasattr(unet, "up_blocks"):
        return {}
    blocks = {**_down(unet), **_middle(unet), **_up(unet)}
    names = {}
    for name, _ in unet.named_modules():
        if name in _ENDS:
            names[name] = _ENDS[name]
        for ours, theirs in blocks.items():
            if name.startswith(ours + "."):
                rest = name.removeprefix(ours + ".")
                names[name] = f"{theirs}.{_INNER.get(_kind(ours), {}).get(rest, rest)}"
    return names


def _kind(block: str) -> str:
    """``resnets``, ``attentions``, ``downsamplers`` or ``upsamplers``."""
    return block.split(".")[-2]


def _down(unet: nn.Module) -> dict[str, str]:
    blocks, number = {}, 1
    for level, block in enumerate(unet.get_submodule("down_blocks").children()):
        for index in range(len(list(block.get_submodule("resnets").children()))):
            blocks[f"down_blocks.{level}.resnets.{index}"] = f"input_blocks.{number}.0"
            blocks[f"down_blocks.{level}.attentions.{index}"] = f"input_blocks.{number}.1"
            number += 1
        if getattr(block, "downsamplers", None) is not None:
            blocks[f"down_blocks.{level}.downsamplers.0"] = f"input_blocks.{number}.0"
            number += 1
    return blocks


def _middle(unet: nn.Module) -> dict[str, str]:
    blocks = {}
    block = unet.get_submodule("mid_block")
    for index in range(len(list(block.get_submodule("resnets").children()))):
        blocks[f"mid_block.resnets.{index}"] = f"middle_block.{2 * index}"
        blocks[f"mid_block.attentions.{index}"] = f"middle_block.{2 * index + 1}"
    return blocks


def _up(unet: nn.Module) -> dict[str, str]:
    blocks, number = {}, 0
    for level, block in enumerate(unet.get_submodule("up_blocks").children()):
        attends = getattr(block, "attentions", None) is not None
        for index in range(len(list(block.get_submodule("resnets").children()))):
            blocks[f"up_blocks.{level}.resnets.{index}"] = f"output_blocks.{number}.0"
            blocks[f"up_blocks.{level}.attentions.{index}"] = f"output_blocks.{number}.1"
            number += 1
        upsampler = f"output_blocks.{number - 1}.{2 if attends else 1}"
        blocks[f"up_blocks.{level}.upsamplers.0"] = upsampler
    return blocks
