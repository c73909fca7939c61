"""The loop in this process, on the embedded base model and on small random ones of the other families."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dreambooth_api.models.bases import load_pipeline, resolve_base
from dreambooth_api.training import drawing, snapshot
from dreambooth_api.training.learner import Learner
from dreambooth_api.training.loop import Diverged, train
from dreambooth_api.training.messages import Message, Preparing, Progress, Stopped, Validation
from enlight_common.errors import StorageFull
from PIL import Image
from safetensors.torch import load_file
from training_parts import (
    lora_change,
    options,
    poison,
    random_base,
    relative_difference,
    train_here,
    workspace_for,
)


def draw(pipeline: Any, seed: int = 1, size: int = 64) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(seed)
    picture = pipeline(
        "a sks shoe", height=size, width=size, num_inference_steps=2, generator=generator
    ).images[0]
    return np.asarray(picture, dtype=np.int16)


def test_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    first = train_here(workspace_for(tmp_path / "a", options(steps=3)))
    again = train_here(workspace_for(tmp_path / "b", options(steps=3)))
    other = train_here(workspace_for(tmp_path / "c", options(steps=3, seed=1)))
    change = lora_change(Path(first.folder))
    assert change.norm() > 0
    assert relative_difference(change, lora_change(Path(again.folder))) <= 1e-4
    assert relative_difference(change, lora_change(Path(other.folder))) > 0.1


def test_stopped_and_gone_on_with_equals_unbroken(tmp_path: Path) -> None:
    asked = options(
        steps=6, batch_size=2, gradient_accumulation_steps=2, lr_scheduler="cosine", lr_warmup_steps=2
    )
    unbroken = train_here(workspace_for(tmp_path / "unbroken", asked))
    broken = workspace_for(tmp_path / "broken", asked)
    calls = iter([False, False, False, False, True])
    assert train(broken, lambda message: None, lambda: next(calls)) == Stopped(4)
    heard: list[Message] = []
    resumed = train_here(broken, heard)
    assert [message.step for message in heard if isinstance(message, Progress)] == [5, 6]
    difference = relative_difference(lora_change(Path(unbroken.folder)), lora_change(Path(resumed.folder)))
    assert difference <= 1e-3


def test_random_crops_and_flips_go_on_where_they_were(tmp_path: Path) -> None:
    asked = options(steps=4, random_crop=True, random_flip=True, captions=["one", "two", "three"])
    unbroken = train_here(workspace_for(tmp_path / "unbroken", asked))
    broken = workspace_for(tmp_path / "broken", asked)
    calls = iter([False, False, True])
    train(broken, lambda message: None, lambda: next(calls))
    resumed = train_here(broken)
    difference = relative_difference(lora_change(Path(unbroken.folder)), lora_change(Path(resumed.folder)))
    assert difference <= 1e-3


def test_a_lora_with_text_encoder_changes_what_plain_diffusers_draws(tmp_path: Path) -> None:
    asked = options(steps=4, train_text_encoder=True, alpha=2.0, learning_rate=0.01)
    result = Path(train_here(workspace_for(tmp_path, asked)).folder)
    names = set(load_file(result / "pytorch_lora_weights.safetensors"))
    assert {name.partition(".")[0] for name in names} == {"unet", "text_encoder"}
    pipeline: Any = load_pipeline(resolve_base("enlight/tiny-sd"), torch.float32)
    before = draw(pipeline)
    pipeline.load_lora_weights(result)
    assert pipeline.get_list_adapters().keys() == {"unet", "text_encoder"}
    # alpha 2 on rank 4: what was trained is scaled by half, by any reader.
    assert pipeline.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q.scaling == {
        "default_0": 0.5
    }
    assert np.abs(draw(pipeline) - before).max() > 2


@pytest.mark.parametrize("targets", ["attention", "attention+feedforward", "all"])
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_every_trained_layer_is_read_back_by_plain_diffusers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, targets: str
) -> None:
    random_base(tmp_path / "bases" / "small", family)
    monkeypatch.setenv("BASE_MODELS_DIR", str(tmp_path / "bases"))
    base = resolve_base("small")
    trained: Any = load_pipeline(base, torch.float32)
    asked = options(base_model="small", lora_targets=targets, train_text_encoder=True).resolved(base)
    learner = Learner(trained, asked)
    with torch.no_grad():
        for parameter in learner.parameters().values():
            parameter.normal_()
    learner.export(tmp_path / "result", half=False)
    read: Any = load_pipeline(base, torch.float32)
    read.load_lora_weights(tmp_path / "result")
    for part in learner.modules:
        weights = {
            name.replace(".default_0.", ".default."): value
            for name, value in getattr(read, part).state_dict().items()
            if "lora" in name
        }
        expected = {n: value for n, value in getattr(trained, part).state_dict().items() if "lora" in n}
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_the_file_gives_back_the_adapter_that_was_trained(tmp_path: Path) -> None:
    """A validation picture by the trainer equals plain diffusers' with the file, for the same seed."""
    from dreambooth_api.training.drawing import draw as draw_in_training

    asked = options(
        steps=4, validation_prompt="a sks shoe", validation_interval=4, learning_rate=0.01, seed=5
    )
    workspace = workspace_for(tmp_path, asked)
    heard: list[Message] = []
    result = train_here(workspace, heard)
    assert [message.step for message in heard if isinstance(message, Validation)] == [4]
    pipeline: Any = load_pipeline(resolve_base("enlight/tiny-sd"), torch.float32)
    pipeline.load_lora_weights(result.folder)
    (plain,) = draw_in_training(pipeline, "a sks shoe", [5], 64, torch.device("cpu"))
    trained = Image.open(workspace.validation)
    assert np.abs(np.asarray(plain, np.int16) - np.asarray(trained, np.int16)).max() <= 2


def test_a_full_fine_tune_is_a_pipeline_that_plain_diffusers_loads(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    asked = options(method="full", steps=2, train_text_encoder=True)
    finished = train_here(workspace_for(tmp_path, asked))
    folder = Path(finished.folder)
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} <= {".safetensors", ".json", ".txt"}
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    base: Any = load_pipeline(resolve_base("enlight/tiny-sd"), torch.float32)
    for part in ("unet", "text_encoder"):
        trained, before = getattr(pipeline, part).state_dict(), getattr(base, part).state_dict()
        changed = max(float((trained[name] - before[name]).abs().max()) for name in before)
        assert 1e-5 < changed < 1e-2
    assert torch.equal(pipeline.vae.decoder.conv_in.weight, base.vae.decoder.conv_in.weight)
    assert finished.metrics["trained_parameters"] > 3_000_000


def test_a_full_fine_tune_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    asked = options(method="full", steps=4)
    unbroken = train_here(workspace_for(tmp_path / "unbroken", asked))
    broken = workspace_for(tmp_path / "broken", asked)
    calls = iter([False, False, True])
    train(broken, lambda message: None, lambda: next(calls))
    resumed = train_here(broken)
    base: Any = load_pipeline(resolve_base("enlight/tiny-sd"), torch.float32)
    name = "unet/diffusion_pytorch_model.safetensors"
    changes = []
    for finished in (unbroken, resumed):
        weights = load_file(Path(finished.folder) / name)
        before = base.unet.state_dict()
        changes.append(torch.cat([(weights[key] - before[key]).flatten() for key in sorted(before)]))
    assert relative_difference(*changes) <= 1e-3


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_every_family_trains_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    random_base(tmp_path / "bases" / "small", family)
    monkeypatch.setenv("BASE_MODELS_DIR", str(tmp_path / "bases"))
    base = resolve_base("small")
    assert (base.family, base.resolution) == (family, 64)
    assert base.prediction == ("v_prediction" if family == "sd2" else "epsilon")
    asked = options(
        base_model="small",
        steps=2,
        resolution=None,
        learning_rate=0.01,
        train_text_encoder=True,
        gradient_checkpointing=True,
        lora_targets="all",
        snr_gamma=5.0,
    )
    result = Path(train_here(workspace_for(tmp_path, asked)).folder)
    names = set(load_file(result / "pytorch_lora_weights.safetensors"))
    encoders = {"text_encoder", "text_encoder_2"} if family == "sdxl" else {"text_encoder"}
    assert {name.partition(".")[0] for name in names} == {"unet", *encoders}
    pipeline: Any = load_pipeline(base, torch.float32)
    before = draw(pipeline)
    pipeline.load_lora_weights(result)
    assert np.abs(draw(pipeline) - before).max() > 2


def test_a_full_fine_tune_of_sdxl_loads_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import DiffusionPipeline

    random_base(tmp_path / "bases" / "small", "sdxl")
    monkeypatch.setenv("BASE_MODELS_DIR", str(tmp_path / "bases"))
    asked = options(base_model="small", method="full", steps=1, resolution=None, learning_rate=1e-3)
    finished = train_here(workspace_for(tmp_path, asked))
    assert draw(DiffusionPipeline.from_pretrained(finished.folder)).shape == (64, 64, 3)


def test_class_pictures_are_drawn_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random_base(tmp_path / "bases" / "small", "sd1")
    monkeypatch.setenv("BASE_MODELS_DIR", str(tmp_path / "bases"))
    prior = {"class_prompt": "a shoe", "num_class_images": 2}
    heard: list[Message] = []
    train_here(workspace_for(tmp_path, options(base_model="small", steps=2, prior_preservation=prior)), heard)
    assert [message.total for message in heard if isinstance(message, Preparing) and message.total] == [2]
    kept = sorted((tmp_path / "class-images").glob("*/*.png"))
    assert [path.name for path in kept] == ["0000.png", "0001.png"]
    before = [path.read_bytes() for path in kept]

    kept[1].write_bytes(before[1][:50])  # damaged: drawn again, as it was
    heard.clear()
    train_here(
        workspace_for(tmp_path, options(base_model="small", steps=2, seed=9, prior_preservation=prior)), heard
    )
    assert [(m.done, m.total) for m in heard if isinstance(m, Preparing) and m.total] == [(1, 2)]
    assert kept[0].read_bytes() == before[0]
    assert Image.open(kept[1]).size == (64, 64)


def test_class_pictures_are_forgotten_oldest_first_and_never_while_others_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random_base(tmp_path / "bases" / "small", "sd1")
    monkeypatch.setenv("BASE_MODELS_DIR", str(tmp_path / "bases"))
    monkeypatch.setattr(drawing, "_KEPT_CLASSES", 1)
    folder = tmp_path / "class-images"
    others = folder / "other"
    others.mkdir(parents=True)
    os.utime(others, (0, 0))

    def train_with(class_prompt: str) -> None:
        prior = {"class_prompt": class_prompt, "num_class_images": 1}
        asked = options(base_model="small", steps=1, prior_preservation=prior)
        train_here(workspace_for(tmp_path, asked))

    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # as another trainer, which draws
        train_with("a shoe")
        assert others.exists()
    train_with("a boot")
    assert not others.exists()
    assert len(list(folder.glob("*/0000.png"))) == 1


def test_a_run_whose_checkpoints_do_not_fit_the_disk_ends_before_its_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "free_bytes", lambda folder: 20_000_000)
    heard: list[Message] = []
    with pytest.raises(StorageFull, match=r"need \d+ MB of disk, and 20 MB are free"):
        train_here(workspace_for(tmp_path, options()), heard)
    assert not any(isinstance(message, Progress) for message in heard)


def test_the_prior_changes_what_is_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random_base(tmp_path / "bases" / "small", "sd1")
    monkeypatch.setenv("BASE_MODELS_DIR", str(tmp_path / "bases"))
    prior = {"class_prompt": "a shoe", "num_class_images": 1, "weight": 1.0}
    without = train_here(workspace_for(tmp_path / "a", options(base_model="small", steps=2)))
    asked = options(base_model="small", steps=2, prior_preservation=prior)
    beside = train_here(workspace_for(tmp_path / "b", asked))
    assert relative_difference(lora_change(Path(without.folder)), lora_change(Path(beside.folder))) > 0.1


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random_base(tmp_path / "bases" / "small", "sd1")
    poison(tmp_path / "bases" / "small")
    monkeypatch.setenv("BASE_MODELS_DIR", str(tmp_path / "bases"))
    with pytest.raises(Diverged, match="learning rate"):
        train_here(workspace_for(tmp_path, options(base_model="small")))


def test_nothing_that_is_written_is_pickled(tmp_path: Path) -> None:
    workspace = workspace_for(tmp_path, options(steps=4))
    train_here(workspace)
    suffixes = {path.suffix for path in workspace.folder.rglob("*") if path.is_file() and path.name != "lock"}
    assert suffixes <= {".safetensors", ".json", ".png"}


def test_a_finished_run_that_was_not_published_is_not_trained_again(tmp_path: Path) -> None:
    workspace = workspace_for(tmp_path, options(steps=2))
    first = train_here(workspace)
    heard: list[Message] = []
    assert train_here(workspace, heard) == first
    assert heard == []
    assert json.loads((workspace.folder / "finished.json").read_text())["metrics"] == first.metrics


def test_many_photos_are_each_seen_before_any_is_seen_again() -> None:
    from dreambooth_api.training.randomness import Shuffle

    shuffle, generator = Shuffle(5), torch.Generator().manual_seed(0)
    seen = torch.cat([shuffle.take(2, generator) for _ in range(10)]).tolist()
    assert all(sorted(seen[start : start + 5]) == [0, 1, 2, 3, 4] for start in range(0, 20, 5))
