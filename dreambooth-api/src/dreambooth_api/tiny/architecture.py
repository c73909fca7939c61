"""The shapes of the tiny models: Stable Diffusion 1.x with the channels shrunk and nothing else.

The UNet keeps SD 1.5's four levels, two layers each and the same block types, so the number of
modules that Python calls for a step is the same; the autoencoder keeps its factor of 8.
"""

from __future__ import annotations

from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig

#: Pictures are SIZE × SIZE pixels; latents are an eighth of that.
SIZE = 128
TEXT_WIDTH = 128
CLIP_WIDTH = 64
CLIP_SIZE = 64


def text_config(vocabulary: int) -> CLIPTextConfig:
    """CLIP's text encoder; the last two token ids of the vocabulary are start and end."""
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=CLIP_WIDTH,
        hidden_act="quick_gelu",
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )


def clip_config(vocabulary: int) -> CLIPConfig:
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=CLIP_SIZE,
        patch_size=8,
        projection_dim=CLIP_WIDTH,
        hidden_act="quick_gelu",
    )
    return CLIPConfig(
        text_config=text_config(vocabulary).to_dict(),
        vision_config=vision.to_dict(),
        projection_dim=CLIP_WIDTH,
    )


def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIZE // 8,
        in_channels=4,
        out_channels=4,
        layers_per_block=2,
        block_out_channels=(48, 64, 64, 64),
        down_block_types=(
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "DownBlock2D",
        ),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIZE,
    )


def scheduler() -> DPMSolverMultistepScheduler:
    """SD 1.x's noise schedule, sampled with DPM++ 2M."""
    return DPMSolverMultistepScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        prediction_type="epsilon",
        steps_offset=1,
        timestep_spacing="leading",
        algorithm_type="dpmsolver++",
        solver_order=2,
    )
