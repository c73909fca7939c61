"""The base-model registry: known names, dead names, folders, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from dreambooth_api.models.bases import ALIASES, known_bases, resolve_base
from dreambooth_api.tiny import PIPELINE_FOLDER
from enlight_common.errors import UnsupportedBaseModel
from training_parts import random_base


@pytest.fixture
def bases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BASE_MODELS_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def copy_of_tiny(bases: Path) -> Path:
    return Path(shutil.copytree(PIPELINE_FOLDER, bases / "mine"))


@pytest.mark.parametrize("dead", sorted(ALIASES))
def test_names_that_left_the_hub_lead_to_their_mirrors(dead: str) -> None:
    assert resolve_base(dead) == resolve_base(ALIASES[dead])
    assert resolve_base(dead).name == ALIASES[dead]


def test_only_revisions_with_a_source_are_pinned() -> None:
    pinned = {name: base.revision for name in known_bases() if not (base := resolve_base(name)).is_folder}
    assert {name: revision for name, revision in pinned.items() if revision} == {
        "stable-diffusion-v1-5/stable-diffusion-v1-5": "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
        "stabilityai/stable-diffusion-xl-base-1.0": "462165984030d82259a11f4367a4eed129e94a7b",
    }


def test_sd2_draws_by_velocity_at_768_and_its_base_by_noise_at_512() -> None:
    v, base = (
        resolve_base("stabilityai/stable-diffusion-2-1"),
        resolve_base("stabilityai/stable-diffusion-2-1-base"),
    )
    assert (v.family, v.prediction, v.resolution) == ("sd2", "v_prediction", 768)
    assert (base.family, base.prediction, base.resolution) == ("sd2", "epsilon", 512)


@pytest.mark.parametrize(
    "name", ["CompVis/stable-diffusion-v1-4", "../mine", "/etc", "", ".", "mine/..", "a\0b", "x" * 300]
)
def test_anything_else_is_refused_and_told_what_there_is(copy_of_tiny: Path, name: str) -> None:
    with pytest.raises(UnsupportedBaseModel, match="enlight/tiny-sd") as caught:
        resolve_base(name)
    assert len(name) < 3 or name not in caught.value.detail


def test_a_registered_folder_is_known_by_its_name(copy_of_tiny: Path) -> None:
    assert "mine" in known_bases()
    found, tiny = resolve_base("mine"), resolve_base("enlight/tiny-sd")
    assert (found.family, found.resolution, found.prediction) == ("sd1", 128, "epsilon")
    assert found.revision == tiny.revision


def test_other_weights_in_a_folder_are_another_revision(copy_of_tiny: Path) -> None:
    before = resolve_base("mine").revision
    weights = next((copy_of_tiny / "unet").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert resolve_base("mine").revision != before


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_a_folder_tells_its_family(bases: Path, family: str) -> None:
    random_base(bases / "small", family)
    found = resolve_base("small")
    assert found.family == family
    assert found.prediction == ("v_prediction" if family == "sd2" else "epsilon")


def test_pickled_weights_are_refused_by_part(copy_of_tiny: Path) -> None:
    weights = next((copy_of_tiny / "vae").glob("*.safetensors"))
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(UnsupportedBaseModel, match="vae"):
        resolve_base("mine")


def test_an_inpainting_model_is_refused(copy_of_tiny: Path) -> None:
    path = copy_of_tiny / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "in_channels": 9}))
    with pytest.raises(UnsupportedBaseModel, match="further inputs"):
        resolve_base("mine")


def test_another_kind_of_pipeline_is_refused(copy_of_tiny: Path) -> None:
    path = copy_of_tiny / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_class_name": "FluxPipeline"}))
    with pytest.raises(UnsupportedBaseModel, match="StableDiffusionPipeline"):
        resolve_base("mine")
