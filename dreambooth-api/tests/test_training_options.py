"""Options, identities, schedules and messages: what needs no model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dreambooth_api.models.bases import resolve_base
from dreambooth_api.train import build_parser, options_of
from dreambooth_api.training import schedule
from dreambooth_api.training.messages import (
    Checkpointed,
    Failed,
    Finished,
    NotAMessage,
    Preparing,
    Progress,
    Stopped,
    Validation,
    from_json,
    to_json,
)
from dreambooth_api.training.options import PriorPreservation, TrainingOptions, identity
from dreambooth_api.training.photos import read_folder, shrink
from enlight_common.errors import InvalidField
from PIL import Image
from pydantic import ValidationError
from training_parts import options, photos


@pytest.mark.parametrize("model", [TrainingOptions, PriorPreservation])
def test_every_option_says_its_unit_and_reason(model: Any) -> None:
    for name, field in model.model_fields.items():
        assert field.description, name
        assert field.json_schema_extra["unit"], name


def test_every_number_has_both_bounds() -> None:
    for model in (TrainingOptions, PriorPreservation):
        for name, field in model.model_json_schema()["properties"].items():
            kinds = field.get("anyOf", [field])
            for kind in kinds:
                if kind.get("type") in ("integer", "number"):
                    assert "minimum" in kind or "exclusiveMinimum" in kind, name
                    assert "maximum" in kind, name


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("steps", 10**9),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("learning_rate", 0),
        ("resolution", 65),
        ("instance_prompt", ""),
        ("instance_prompt", "x" * 1_000_000),
        ("instance_prompt", "a\0b"),
        ("rank", 100_000),
        ("seed", -1),
        ("seed", 2**63),
        ("method", "hypernetwork"),
        ("captions", ["x"] * 65),
        ("unknown", 1),
    ],
)
def test_out_of_bounds_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        options(**{field: value})
    assert caught.value.errors()[0]["loc"][0] == field


def test_the_base_model_fills_in_what_was_left_open() -> None:
    tiny = resolve_base("enlight/tiny-sd")
    asked = TrainingOptions(instance_prompt="a sks shoe")
    lora, full = (asked.model_copy(update={"method": method}).resolved(tiny) for method in ("lora", "full"))
    assert (lora.resolution, lora.learning_rate, lora.alpha) == (128, tiny.learning_rate["lora"], 8.0)
    assert full.learning_rate == tiny.learning_rate["full"]
    assert lora.resolved(tiny) == lora
    kept = resolve_base("runwayml/stable-diffusion-v1-5")
    assert asked.resolved(kept).learning_rate == 1e-4
    assert asked.resolved(kept).base_model == "stable-diffusion-v1-5/stable-diffusion-v1-5"


def test_an_identity_is_that_of_tenant_model_options_and_photos() -> None:
    pictures = photos()
    first = identity("default", "shoe", options(), pictures)
    assert identity("default", "shoe", options(), photos()) == first
    others = [
        identity("ada", "shoe", options(), pictures),
        identity("default", "boot", options(), pictures),
        identity("default", "shoe", options(seed=1), pictures),
        identity("default", "shoe", options(), pictures[::-1]),
        identity("default", "shoe", options(), pictures[:2]),
    ]
    assert len({first, *others}) == 6


def test_schedules_rise_by_the_warm_up_and_end_near_nothing() -> None:
    def rates(name: str, warmup: int = 0) -> list[float]:
        return [schedule.factor(name, step, 100, warmup) for step in range(100)]

    assert set(rates("constant")) == {1.0}
    assert rates("constant", warmup=4)[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    for name in ("linear", "cosine", "polynomial"):
        assert rates(name)[0] == 1.0
        assert rates(name) == sorted(rates(name), reverse=True)
        assert 0 < rates(name)[-1] < 0.02
    assert sum(rate == 1.0 for rate in rates("cosine_with_restarts")) == 4


@pytest.mark.parametrize(
    "message",
    [
        Preparing("class images", 3, 100),
        Progress(1, 400, 0.25, 1e-4, 3.5, 80.0),
        Validation(100, "/tmp/a\nb.png"),
        Checkpointed(100),
        Finished("/somewhere", {"loss": 0.1}, "abc"),
        Failed("out-of-memory", "no room for “it”"),
        Stopped(7),
    ],
)
def test_messages_survive_the_way_between_processes(message: Any) -> None:
    line = to_json(message)
    assert "\n" not in line
    assert from_json(line.encode()) == message


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"3", b'{"type": "x"}', b'{"type": "stopped"}', b"\xff"])
def test_what_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(NotAMessage):
        from_json(line)


def test_photos_are_cropped_to_their_middle() -> None:
    wide = Image.new("RGB", (300, 100))
    wide.paste((255, 0, 0), (100, 0, 200, 100))
    square, framing = shrink(wide, 64, to_square=True)
    assert square.size == (64, 64)
    assert framing.original == (100, 300)
    assert framing.corner == (0, 64)
    assert square.resize((1, 1)).getpixel((0, 0))[0] > 240
    assert shrink(wide, 64, to_square=False)[0].size == (192, 64)
    assert shrink(Image.new("RGB", (20_000, 16)), 64, to_square=False)[0].size[0] <= 16 * 64


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    with pytest.raises(InvalidField, match="1 to 64"):
        read_folder(tmp_path)
    for name in ("b.png", "a.jpg", "notes.txt"):
        if name.endswith("txt"):
            (tmp_path / name).write_text("not a photo")
        else:
            Image.new("RGB", (32, 32)).save(tmp_path / name)
    paths, pictures = read_folder(tmp_path)
    assert [path.name for path in paths] == ["a.jpg", "b.png"]
    assert len(pictures) == 2
    (tmp_path / "c.png").write_bytes(b"no image")
    with pytest.raises(InvalidField, match=r"c\.png"):
        read_folder(tmp_path)


def test_the_command_line_has_every_option() -> None:
    text = build_parser().format_help()
    for name in {*TrainingOptions.model_fields, *PriorPreservation.model_fields} - {"prior_preservation"}:
        assert "--" + name.replace("_", "-") in text


def test_flags_become_options(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("one\n\ntwo\n")
    flags = [
        "--images",
        ".",
        "--prompt",
        "a sks shoe",
        "--name",
        "x",
        "--captions",
        str(tmp_path / "captions.txt"),
    ]
    more = ["--steps", "7", "--learning-rate", "2e-4", "--train-text-encoder", "--class-prompt", "a shoe"]
    asked = options_of(build_parser().parse_args([*flags, *more, "--weight", "0.5"]))
    assert (asked.steps, asked.learning_rate, asked.train_text_encoder) == (7, 2e-4, True)
    assert asked.captions == ("one", "two")
    assert asked.prior_preservation == PriorPreservation(class_prompt="a shoe", weight=0.5)


def test_the_service_side_loads_no_torch() -> None:
    heavy = "{'torch', 'diffusers', 'peft', 'accelerate', 'transformers'}"
    code = f"import sys, dreambooth_api.training.runs; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
