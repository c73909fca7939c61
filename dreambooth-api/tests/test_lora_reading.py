"""LoRA files of every tool do what diffusers makes of them, or are refused, naming what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from dreambooth_api.inference.lora import (
    AdapterWeights,
    BadAdapter,
    LayerNames,
    LoraLayers,
    read_adapter,
    reading,
)
from lora_parts import (
    ATTENTION,
    CONVOLUTIONS,
    EVERYTHING,
    FEED_FORWARD,
    MAX_RANK,
    PROJECTIONS,
    TEXT,
    TOKENS,
    UNETS,
    Matrices,
    as_attention_processors,
    as_diffusers,
    as_diffusers_before_peft,
    as_kohya,
    as_kohya_xl,
    forward,
    inputs,
    plain_with,
    random_lora,
    read,
    relative_difference,
    saved,
    small_text_encoder,
    tiny_unet,
)
from torch import Tensor

SAME = 1e-5
INNER = (*ATTENTION, *FEED_FORWARD, *PROJECTIONS, *CONVOLUTIONS)
ALPHA = {"rank": 4, "alpha": 2.0, "strength": 0.15}
GENTLE = {"rank": 4, "strength": 0.08}

Write = Callable[[Mapping[str, Matrices]], Mapping[str, Tensor]]


def drawn_with(unet: Any, weights: AdapterWeights) -> Tensor:
    layers = LoraLayers(unet)
    layers.use(layers.gather_merged([(weights, 1.0)]))
    return forward(unet, inputs(unet, 2))


@pytest.mark.parametrize(
    ("family", "write", "targets", "how"),
    [
        pytest.param("sd1", as_diffusers, EVERYTHING, GENTLE, id="diffusers, SD 1"),
        pytest.param("sdxl", as_diffusers, EVERYTHING, GENTLE, id="diffusers, SDXL"),
        pytest.param("sd2", as_diffusers_before_peft, INNER, {"rank": 4}, id="diffusers before peft"),
        pytest.param("sd2", as_attention_processors, ATTENTION, {"rank": 4}, id="attention processors"),
        pytest.param("sd1", as_kohya, INNER, ALPHA, id="kohya, SD 1"),
        pytest.param("sd2", as_kohya, INNER, ALPHA, id="kohya, SD 2"),
        pytest.param("sd2", as_kohya, ATTENTION, {"rank": 4}, id="kohya without alpha"),
    ],
)
def test_a_file_does_what_diffusers_makes_of_it(
    tmp_path: Path, family: str, write: Write, targets: tuple[str, ...], how: dict[str, Any]
) -> None:
    unet = UNETS[family]()
    keys = write(random_lora(unet, targets, **how))
    expected = forward(plain_with(unet, (keys, 1.0)), inputs(unet, 2))
    base = forward(unet, inputs(unet, 2))
    drawn = drawn_with(unet, read(tmp_path, {"unet": unet}, keys))
    assert relative_difference(drawn, expected) < SAME
    assert relative_difference(drawn, base) > 1e-3


def test_kohyas_numbering_of_sdxl_blocks_does_what_diffusers_makes_of_it(tmp_path: Path) -> None:
    unet = UNETS["sdxl"]()
    keys = as_kohya_xl(random_lora(unet, EVERYTHING, rank=4, alpha=2.0), unet)
    assert "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight" in keys
    assert "lora_unet_input_blocks_3_0_op.lora_down.weight" in keys
    assert "lora_unet_output_blocks_2_2_conv.lora_down.weight" in keys
    expected = forward(plain_with(unet, (keys, 1.0)), inputs(unet, 2))
    drawn = drawn_with(unet, read(tmp_path, {"unet": unet}, keys))
    assert relative_difference(drawn, expected) < SAME


def test_an_alpha_of_its_own_for_every_layer_counts(tmp_path: Path) -> None:
    """Compared with scaled matrices: diffusers 0.42 loses alphas that differ between attention layers."""
    unet = UNETS["sd2"]()
    lora = random_lora(unet, rank=4)
    alphas = {name: float(1 + number % 5) for number, name in enumerate(lora)}
    scaled = {name: Matrices(one.down, one.up * (alphas[name] / 4)) for name, one in lora.items()}
    with_alphas = {name: Matrices(one.down, one.up, alphas[name]) for name, one in lora.items()}
    expected = forward(plain_with(unet, (as_diffusers(scaled), 1.0)), inputs(unet, 2))
    drawn = drawn_with(unet, read(tmp_path, {"unet": unet}, as_kohya(with_alphas)))
    assert relative_difference(drawn, expected) < SAME


def test_a_rank_of_its_own_for_every_layer_is_read(tmp_path: Path) -> None:
    unet = tiny_unet()
    keys = {
        **as_diffusers(random_lora(unet, ["to_q"], rank=2)),
        **as_diffusers(random_lora(unet, ["to_v", "to_out.0"], rank=9)),
        **as_diffusers(random_lora(unet, ["attn1.to_k"], rank=5)),
    }
    expected = forward(plain_with(unet, (keys, 1.0)), inputs(unet, 2))
    drawn = drawn_with(unet, read(tmp_path, {"unet": unet}, keys))
    assert relative_difference(drawn, expected) < SAME


@pytest.mark.parametrize("settings", [{"lora_alpha": 8}, {"lora_alpha": 8, "use_rslora": True}])
def test_the_alpha_in_a_files_metadata_counts_as_in_diffusers(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    trained = tiny_unet()
    pattern = {"mid_block.attentions.0.transformer_blocks.0.attn1.to_q": 3}
    config = LoraConfig(
        r=4, target_modules=["to_q", "to_v"], alpha_pattern=pattern, init_lora_weights=False, **settings
    )
    trained.add_adapter(config)
    StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(trained),
        unet_lora_adapter_metadata=trained.peft_config["default"].to_dict(),
    )
    unet = tiny_unet()
    plain = tiny_unet()
    state, alphas, metadata = StableDiffusionPipeline.lora_state_dict(tmp_path, return_lora_metadata=True)
    plain.load_lora_adapter(state, prefix="unet", network_alphas=alphas, metadata=metadata)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    weights = read_adapter(file, LayerNames.of({"unet": unet}), max_rank=MAX_RANK, dtype=torch.float32)
    expected = forward(plain, inputs(unet, 2))
    assert relative_difference(drawn_with(unet, weights), expected) < SAME


@pytest.mark.parametrize(
    ("part", "write"),
    [
        ("text_encoder", lambda lora: as_diffusers(lora, "text_encoder")),
        ("text_encoder_2", lambda lora: as_diffusers(lora, "text_encoder_2")),
        ("text_encoder", lambda lora: as_kohya(_with_text_model(lora), "lora_te")),
        ("text_encoder", lambda lora: as_kohya(_with_text_model(lora), "lora_te1")),
        ("text_encoder_2", lambda lora: as_kohya(_with_text_model(lora), "lora_te2")),
    ],
    ids=["diffusers", "diffusers' second", "kohya", "kohya's first", "kohya's second"],
)
def test_a_text_encoders_lora_does_what_diffusers_makes_of_it(
    tmp_path: Path, part: str, write: Write
) -> None:
    plain, encoder = small_text_encoder(), small_text_encoder()
    keys = write(random_lora(encoder, TEXT, rank=4))
    layers = LoraLayers(encoder, part=part)
    layers.use(layers.gather_merged([(read(tmp_path, {part: encoder}, keys), 1.0)]))
    converted, alphas = StableDiffusionXLPipeline.lora_state_dict(dict(keys))
    StableDiffusionXLPipeline.load_lora_into_text_encoder(converted, alphas, plain, prefix=part)
    tokens = torch.arange(TOKENS)[None]
    with torch.no_grad():
        assert relative_difference(encoder(tokens)[0], plain(tokens)[0]) < SAME


def _with_text_model(lora: Mapping[str, Matrices]) -> dict[str, Matrices]:
    """As kohya's tools know the encoder: with a level that transformers has dropped since."""
    return {"text_model." + name.removeprefix("text_model."): one for name, one in lora.items()}


def test_an_alpha_scales_a_text_encoders_lora(tmp_path: Path) -> None:
    """Compared with the scaled matrices: diffusers drops a text encoder's alphas where they differ."""
    encoder = small_text_encoder()
    lora = random_lora(encoder, TEXT, rank=4)
    scaled = {name: Matrices(one.down, one.up * 0.5) for name, one in lora.items()}
    with_alpha = {name: Matrices(one.down, one.up, 2.0) for name, one in lora.items()}
    tokens = torch.arange(TOKENS)[None]
    layers = LoraLayers(encoder, part="text_encoder")
    outputs = []
    for one in (scaled, with_alpha):
        weights = read(tmp_path, {"text_encoder": encoder}, as_kohya(one, "lora_te"))
        layers.use(layers.gather_merged([(weights, 1.0)]))
        with torch.no_grad():
            outputs.append(encoder(tokens)[0])
    assert relative_difference(outputs[1], outputs[0]) < SAME


def test_one_file_for_all_parts_of_a_pipeline_is_read_for_all(tmp_path: Path) -> None:
    parts = {"unet": tiny_unet(), "text_encoder": small_text_encoder()}
    keys = {
        **as_kohya(random_lora(parts["unet"])),
        **as_kohya(_with_text_model(random_lora(parts["text_encoder"], TEXT)), "lora_te"),
    }
    weights = read(tmp_path, parts, keys)
    device = torch.device("cpu")
    assert weights.part_on("unet", device) is not None
    assert weights.part_on("text_encoder", device) is not None
    assert weights.part_on("text_encoder_2", device) is None


def test_a_small_alpha_is_not_lost_in_half_precision(tmp_path: Path) -> None:
    unet = tiny_unet()
    lora = random_lora(unet, ["to_q"], rank=64, alpha=2.0**-12, strength=0.01)
    file = saved(tmp_path, as_kohya(lora))
    weights = read_adapter(file, LayerNames.of({"unet": unet}), max_rank=64, dtype=torch.float16)
    factors = next(found for group in range(99) if (found := weights.factors("unet", group)) is not None)
    name = next(iter(lora))
    exact = lora[name].up @ lora[name].down * (2.0**-12 / 64)
    # The group's first layer is one of those that were written; its query comes first in a bundle of three.
    made = factors.up[0].float() @ factors.down[0].float()
    assert relative_difference(made, exact) < 0.01


NAME = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


def without(keys: dict[str, Tensor], ending: str) -> dict[str, Tensor]:
    return {key: matrix for key, matrix in keys.items() if not key.endswith(ending)}


def spoilt(keys: dict[str, Tensor], matrix: Tensor, half: str = "A") -> dict[str, Tensor]:
    return {**keys, f"unet.{NAME}.lora_{half}.weight": matrix}


@pytest.mark.parametrize(
    ("spoil", "names"),
    [
        pytest.param(
            lambda keys: {**keys, "unet.nowhere.to_q.lora_A.weight": torch.ones(4, 4)},
            "nowhere",
            id="unknown layer",
        ),
        pytest.param(
            lambda keys: {**keys, f"unet.{NAME}.lora_magnitude_vector": torch.ones(48)},
            f"{NAME}.lora_magnitude_vector",
            id="DoRA",
        ),
        pytest.param(
            lambda keys: {**keys, "lora_unet_mid_block_attentions_0_proj_in.hada_w1_a": torch.ones(4, 4)},
            "hada_w1_a",
            id="LoHa",
        ),
        pytest.param(
            lambda keys: {
                **keys,
                "lora_unet_mid_block_resnets_0_conv1.lora_mid.weight": torch.ones(4, 4, 3, 3),
            },
            "lora_mid",
            id="Tucker decomposition",
        ),
        pytest.param(
            lambda keys: {**keys, f"unet.{NAME}.lora_B.bias": torch.ones(48)}, "lora_B.bias", id="bias"
        ),
        pytest.param(
            lambda keys: {**keys, "text_encoder_2.encoder.layers.0.mlp.fc1.lora_A.weight": torch.ones(4, 4)},
            "text_encoder_2",
            id="part that the pipeline lacks",
        ),
        pytest.param(lambda keys: without(keys, f"{NAME}.lora_B.weight"), NAME, id="half a layer"),
        pytest.param(lambda keys: spoilt(keys, torch.ones(4, 47)), NAME, id="input of another size"),
        pytest.param(lambda keys: spoilt(keys, torch.ones(49, 4), "B"), NAME, id="output of another size"),
        pytest.param(lambda keys: spoilt(keys, torch.ones(5, 48)), NAME, id="ranks that differ"),
        pytest.param(
            lambda keys: spoilt(keys, torch.ones(4, 48, 3, 3)), NAME, id="a window that the layer lacks"
        ),
        pytest.param(lambda keys: spoilt(keys, torch.tensor(1.0)), NAME, id="a number for a matrix"),
        pytest.param(lambda keys: spoilt(keys, torch.full((4, 48), torch.nan)), NAME, id="not a number"),
        pytest.param(lambda keys: spoilt(keys, torch.full((4, 48), torch.inf)), NAME, id="infinite"),
        pytest.param(
            lambda keys: {**keys, f"unet.{NAME}.alpha": torch.tensor(torch.nan)},
            f"{NAME}.alpha",
            id="bad alpha",
        ),
        pytest.param(
            lambda keys: {**keys, f"{NAME}.lora_A.weight": torch.ones(4, 48)},
            NAME,
            id="one layer by two names",
        ),
        pytest.param(
            lambda keys: {
                **spoilt(keys, torch.ones(65, 48)),
                f"unet.{NAME}.lora_B.weight": torch.ones(48, 65),
            },
            f"at most 64, it is up to 65 in: unet.{NAME}",
            id="a rank above the bound",
        ),
        pytest.param(lambda keys: {}, "no LoRA", id="empty"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, spoil: Callable[[dict[str, Tensor]], dict[str, Tensor]], names: str
) -> None:
    unet = tiny_unet()
    keys = spoil(as_diffusers(random_lora(unet)))
    with pytest.raises(BadAdapter) as refused:
        read(tmp_path, {"unet": unet}, keys)
    assert refused.value.status == 422
    assert names in refused.value.detail


def test_a_refusal_names_ten_keys_at_most_and_cuts_long_ones(tmp_path: Path) -> None:
    unet = tiny_unet()
    keys = {f"unet.{number}{'x' * 1000}.lora_A.weight": torch.ones(1) for number in range(500)}
    with pytest.raises(BadAdapter, match="and 490 more") as refused:
        read(tmp_path, {"unet": unet}, keys)
    assert len(refused.value.detail) < 10 * 200 + 200


def test_numbers_too_large_for_half_precision_are_refused(tmp_path: Path) -> None:
    unet = tiny_unet()
    file = saved(tmp_path, spoilt(as_diffusers(random_lora(unet)), torch.full((4, 48), 1e6)))
    with pytest.raises(BadAdapter, match="to_q"):
        read_adapter(file, LayerNames.of({"unet": unet}), max_rank=MAX_RANK, dtype=torch.float16)


@pytest.mark.parametrize(
    "content",
    [b"", b"not safetensors at all", (2**40).to_bytes(8, "little"), (100).to_bytes(8, "little") + b"{" * 100],
    ids=["empty", "text", "a header of a terabyte", "a header that is no JSON"],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "adapter.safetensors"
    file.write_bytes(content)
    with pytest.raises(BadAdapter):
        read_adapter(file, LayerNames.of({"unet": tiny_unet()}), max_rank=MAX_RANK, dtype=torch.float32)


def test_a_header_beyond_its_bound_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unet = tiny_unet()
    file = saved(tmp_path, as_diffusers(random_lora(unet)))
    monkeypatch.setattr(reading, "MAX_HEADER_BYTES", 1000)
    with pytest.raises(BadAdapter, match="header"):
        read_adapter(file, LayerNames.of({"unet": unet}), max_rank=MAX_RANK, dtype=torch.float32)


@pytest.mark.parametrize(
    "metadata",
    [
        "{",
        "[]",
        "[" * 100_000,
        json.dumps({"unet.lora_alpha": "x", "unet.alpha_pattern": [1]}),
        '{"unet.lora_alpha": 1' + "0" * 400 + "}",
    ],
)
def test_metadata_of_another_shape_counts_as_none(tmp_path: Path, metadata: str) -> None:
    unet = tiny_unet()
    keys = as_diffusers(random_lora(unet))
    expected = drawn_with(tiny_unet(), read(tmp_path, {"unet": unet}, keys))
    weights = read(tmp_path, {"unet": unet}, keys, lora_adapter_metadata=metadata)
    assert torch.equal(drawn_with(unet, weights), expected)


def test_metadata_that_asks_for_dora_is_refused(tmp_path: Path) -> None:
    unet = tiny_unet()
    metadata = json.dumps({"unet.use_dora": True})
    with pytest.raises(BadAdapter, match="use_dora"):
        read(tmp_path, {"unet": unet}, as_diffusers(random_lora(unet)), lora_adapter_metadata=metadata)
