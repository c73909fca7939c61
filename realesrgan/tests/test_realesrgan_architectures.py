"""Networks of other architectures than Real-ESRGAN's, with random weights, against spandrel's own call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from realesrgan_service.models.loading import read_weights, upscaler_from
from realesrgan_service.upscaling.network import network_of
from safetensors.torch import save_file
from spandrel import ModelLoader
from spandrel.architectures import PLKSR, SAFMN, SPAN, OmniSR, RealCUGAN, SwinIR


def _swinir() -> torch.nn.Module:
    return SwinIR.SwinIR(
        img_size=48,
        window_size=8,
        depths=[2, 2],
        embed_dim=12,
        num_heads=[2, 2],
        mlp_ratio=2,
        upscale=4,
        upsampler="nearest+conv",
    )


#: By the name that spandrel has for them. SwinIR, OmniSR and RealCUGAN pad what they are given.
ARCHITECTURES: dict[str, Callable[[], torch.nn.Module]] = {
    "SwinIR": _swinir,
    "SPAN": lambda: SPAN.SPAN(num_in_ch=3, num_out_ch=3, feature_channels=16, upscale=2),
    "PLKSR": lambda: PLKSR.RealPLKSR(dim=16, n_blocks=2, upscaling_factor=2),
    "OmniSR": lambda: OmniSR.OmniSR(num_feat=16, up_scale=2, res_num=1),
    "SAFMN": lambda: SAFMN.SAFMN(dim=16, n_blocks=2, upscaling_factor=4),
    "RealCUGAN": RealCUGAN.UpCunet2x,
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_any_architecture_gives_what_spandrel_gives(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    file = tmp_path / "mine.safetensors"
    save_file({k: v.contiguous().clone() for k, v in ARCHITECTURES[name]().state_dict().items()}, file)
    plain = ModelLoader("cpu").load_from_file(file).eval()
    assert plain.architecture.id == name
    window = np.random.default_rng(0).random((3, 50, 61), dtype=np.float32)  # no multiple of any window
    with torch.inference_mode():
        expected = plain(torch.from_numpy(window)[None])[0].clamp(0, 1).numpy()
    network = network_of(upscaler_from(read_weights(file, "model_name"), "model_name"), "cpu", "fp32")
    assert np.abs(network(window, lambda: False) - expected).max() < 0.5 / 255
