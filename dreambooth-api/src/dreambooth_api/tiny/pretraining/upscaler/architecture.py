"""The shapes of ``enlight/tiny-x4``: the x4 upscaler of Stable Diffusion 2 with the channels shrunk.

As there, the autoencoder's factor is 4, so that latents are as large as the low-resolution picture,
which the UNet sees as three channels more; the noise that is added to it is told as a class label;
the attention is to the text only, so that a tile's size changes nothing but the cost.
"""

from __future__ import annotations

from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel

from ...architecture import TEXT_WIDTH

FACTOR = 4
LATENTS = 16
#: The pipeline class insists on this one: latents of the autoencoder have a deviation of its inverse.
SCALING = 0.08333
#: Of the pipeline: noise levels above it are refused.
MAX_NOISE_LEVEL = 350


def autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=LATENTS,
        norm_num_groups=1,
        sample_size=128,
        scaling_factor=SCALING,
        mid_block_add_attention=False,  # its cost grows with the square of a tile's area
        force_upcast=False,
    )


def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=LATENTS + 3,
        out_channels=LATENTS,
        layers_per_block=1,
        block_out_channels=(32, 64, 96),
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        only_cross_attention=True,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=1,
        num_class_embeds=1000,
    )


def scheduler() -> DDIMScheduler:
    """Starts from pure noise, which is what a handful of steps needs (Lin et al. 2023).

    The UNet says the latents themselves: nearly all of them can be told from the low-resolution picture.
    """
    return DDIMScheduler(
        beta_start=0.0001,
        beta_end=0.02,
        beta_schedule="scaled_linear",
        prediction_type="sample",
        clip_sample=False,
        set_alpha_to_one=True,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


def low_res_scheduler() -> DDPMScheduler:
    """What noise level n (0 to 999) adds to the low-resolution picture, as in Stable Diffusion's."""
    return DDPMScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="scaled_linear")
