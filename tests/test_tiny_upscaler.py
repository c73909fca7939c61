"""``enlight/tiny-x4``, which the upsampler ships and code beside ``enlight/tiny-sd`` trains: does it pay?"""

from __future__ import annotations

from collections.abc import Callable
from statistics import mean

from diffusers import StableDiffusionUpscalePipeline
from dreambooth_api.tiny.pretraining.upscaler.evaluate import bicubic, edge_error, enlarge, held_out, psnr
from dreambooth_api.tiny.pretraining.upscaler.pictures import reduce
from PIL import Image
from upsampler.models import TINY_FOLDER

BYTES = 12_000_000


def test_it_restores_pictures_it_has_never_seen_better_than_bicubic() -> None:
    pictures, _ = zip(*held_out(24), strict=True)
    small = [reduce(picture) for picture in pictures]
    # By the class that its users have, and not by this project's engine.
    pipeline = StableDiffusionUpscalePipeline.from_pretrained(TINY_FOLDER, local_files_only=True)
    drawn = enlarge(pipeline, small, [""] * len(small))
    plain = [bicubic(picture) for picture in small]

    def score(made: list[Image.Image], measure: Callable[[Image.Image, Image.Image], float]) -> float:
        return mean(measure(*pair) for pair in zip(made, pictures, strict=True))

    assert score(drawn, psnr) > score(plain, psnr) + 0.5
    assert score(drawn, edge_error) < score(plain, edge_error)


def test_it_is_small_and_holds_nothing_that_unpickles() -> None:
    files = [path for path in TINY_FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < BYTES
    assert {path.suffix for path in files} == {".json", ".safetensors"}
