"""Upscalers that are fetched by name on first use, where their release page can be reached.

The checksums are those that several public projects pin for these files.
"""

from __future__ import annotations

from enlight_common.weights import Weight

_REAL_ESRGAN = "https://github.com/xinntao/Real-ESRGAN/releases/download"
_GFPGAN = "https://github.com/TencentARC/GFPGAN/releases/download"
_OPENCV_ZOO = "https://github.com/opencv/opencv_zoo/raw/47534e27c9851bb1128ccc0102f1145e27f23f98"

GENERAL = "realesr-general-x4v3"
GENERAL_NOISY = "realesr-general-wdn-x4v3"

#: In the folder of models, by name.
UPSCALERS = {
    "RealESRGAN_x2plus": Weight(
        name="RealESRGAN_x2plus",
        file="RealESRGAN_x2plus.pth",
        sha256="49fafd45f8fd7aa8d31ab2a22d14d91b536c34494a5cfe31eb5d89c2fa266abb",
        urls=(f"{_REAL_ESRGAN}/v0.2.1/RealESRGAN_x2plus.pth",),
    ),
    GENERAL: Weight(
        name=GENERAL,
        file=f"{GENERAL}.pth",
        sha256="8dc7edb9ac80ccdc30c3a5dca6616509367f05fbc184ad95b731f05bece96292",
        urls=(f"{_REAL_ESRGAN}/v0.2.5.0/{GENERAL}.pth",),
    ),
    GENERAL_NOISY: Weight(
        name=GENERAL_NOISY,
        file=f"{GENERAL_NOISY}.pth",
        sha256="1641f8c4464b9f097c9fdda5589273713f67cf59f3d909e0bd688f0cee269dca",
        urls=(f"{_REAL_ESRGAN}/v0.2.5.0/{GENERAL_NOISY}.pth",),
    ),
}

#: In the folder of weights: what restores a face, and what finds it.
FACE_RESTORER = Weight(
    name="GFPGANv1.4",
    file="faces/GFPGANv1.4.pth",
    sha256="e2cd4703ab14f4d01fd1383a8a8b266f9a5833dacee8e6a79d3bf21a1b6be5ad",
    urls=(f"{_GFPGAN}/v1.3.0/GFPGANv1.4.pth",),
)
FACE_DETECTOR = Weight(
    name="YuNet",
    file="faces/face_detection_yunet_2023mar.onnx",
    sha256="8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
    urls=(f"{_OPENCV_ZOO}/models/face_detection_yunet/face_detection_yunet_2023mar.onnx",),
)
