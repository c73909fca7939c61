"""The embedded base model as it is shipped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from dreambooth_api.tiny import CLIP_FOLDER, JUDGE_FILE, PIPELINE_FOLDER
from dreambooth_api.tiny.learning import PhotoLikeness
from dreambooth_api.tiny.render import draw_scene, render
from dreambooth_api.tiny.subject import photos
from safetensors import safe_open
from transformers import CLIPModel, CLIPProcessor

PLAIN_DIFFUSERS = """
import sys
from diffusers import StableDiffusionPipeline
pipeline = StableDiffusionPipeline.from_pretrained(sys.argv[1])
picture = pipeline("a red shoe on a blue background", num_inference_steps=2).images[0]
assert not any(name.startswith("dreambooth_api") for name in sys.modules)
print(picture.size, {part: type(module).__name__ for part, module in pipeline.components.items()})
"""


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(PIPELINE_FOLDER)


def test_plain_diffusers_loads_and_draws_with_no_code_of_ours() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PLAIN_DIFFUSERS, str(PIPELINE_FOLDER)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    assert "(128, 128)" in ran.stdout
    for kind in ("CLIPTextModel", "CLIPTokenizer", "UNet2DConditionModel", "AutoencoderKL"):
        assert kind in ran.stdout


def test_what_is_shipped_is_small_and_half_precision_safetensors() -> None:
    weights = [*PIPELINE_FOLDER.rglob("*.safetensors"), *CLIP_FOLDER.rglob("*.safetensors"), JUDGE_FILE]
    folders = (PIPELINE_FOLDER, CLIP_FOLDER)
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in (*files, JUDGE_FILE)) <= 20_000_000
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")]
    for path in weights:
        with safe_open(path, "pt") as tensors:
            kinds = {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
        assert kinds <= {"F16", "I64"}, path.name


def test_the_unet_has_the_layout_of_stable_diffusion_1(pipeline: StableDiffusionPipeline) -> None:
    config = pipeline.unet.config
    assert config.layers_per_block == 2
    assert list(config.down_block_types) == ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
    assert list(config.up_block_types) == ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3
    # SD 1.5's UNet has 709: one shortcut fewer here, as the two middle levels are equally wide.
    assert sum(1 for _ in pipeline.unet.modules()) == 708


def test_ordinary_prompts_fit_the_context(pipeline: StableDiffusionPipeline) -> None:
    prompt = "a photo of a sks shoe standing on an old wooden table in front of a window, soft evening light"
    assert len(pipeline.tokenizer(prompt).input_ids) <= pipeline.tokenizer.model_max_length == 77


def test_words_never_seen_in_training_can_be_told_apart(pipeline: StableDiffusionPipeline) -> None:
    with torch.no_grad():
        plain, named = (pipeline.encode_prompt(text, "cpu", 1, False)[0] for text in ("a shoe", "a sks shoe"))
        other = pipeline.encode_prompt("a zwx shoe", "cpu", 1, False)[0]
    assert (named - plain).abs().max() > 0.1
    assert (named - other).abs().max() > 0.1


def test_the_clip_shares_the_pipelines_text_encoder(pipeline: StableDiffusionPipeline) -> None:
    ours = pipeline.text_encoder.state_dict()
    clip = CLIPModel.from_pretrained(CLIP_FOLDER).text_model.state_dict()
    assert ours
    for name, tensor in ours.items():
        assert torch.equal(tensor, clip[name.removeprefix("text_model.")]), name


def test_the_clip_finds_the_caption_of_a_picture() -> None:
    import random

    from dreambooth_api.tiny.captions import describe

    rng = random.Random(3)
    asked = [draw_scene(rng, reserved=True) for _ in range(64)]
    clip = CLIPModel.from_pretrained(CLIP_FOLDER).eval()
    processor = CLIPProcessor.from_pretrained(CLIP_FOLDER)
    inputs = processor(
        text=[describe(scene, rng) for scene in asked],
        images=[render(scene) for scene in asked],
        return_tensors="pt",
        padding="max_length",
    )
    with torch.no_grad():
        found = clip(**inputs).logits_per_image.argmax(-1)
    assert (found == torch.arange(64)).float().mean() >= 0.8


def test_photos_of_the_subject_are_more_alike_than_other_pictures() -> None:
    import random

    likeness = PhotoLikeness()
    others = likeness.embed([render(draw_scene(random.Random(i))) for i in range(64)])
    own = likeness.embed(photos())
    assert (own @ own.T).mean() > (others @ own.T).mean() + 0.2


def test_configurations_name_no_machine() -> None:
    for path in (*PIPELINE_FOLDER.rglob("*.json"), *CLIP_FOLDER.rglob("*.json")):
        assert (
            "_name_or_path" not in json.loads(path.read_text())
            or not Path(json.loads(path.read_text())["_name_or_path"]).is_absolute()
        )
