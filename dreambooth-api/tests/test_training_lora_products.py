"""The trainer's own LoRA products and attention against peft's and diffusers'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from dreambooth_api.models.bases import load_pipeline, resolve_base
from dreambooth_api.training import attention
from dreambooth_api.training.learner import Learner
from dreambooth_api.training.lora_products import LoraLinear, project
from dreambooth_api.training.merged_weights import MergedWeights
from peft import LoraConfig
from training_parts import options, random_base

_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.2", "conv1"]
_SIDE = 8


class Layers(torch.nn.Module):
    """Three layers of one input and a fourth with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (torch.nn.Linear(24, width, bias=False) for width in (24, 24, 16))
        self.out = torch.nn.Linear(64, 12)


def adapted(module: torch.nn.Module, *, ours: bool, targets: list[str], rank: int = 4) -> Any:
    """The module with a LoRA of scale 0.5, the same by either way."""
    from peft import inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=rank // 2, target_modules=targets)
    if ours:
        config._register_custom_module({torch.nn.Linear: LoraLinear})
    module.requires_grad_(False)
    inject_adapter_in_model(config, module)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in module.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return module


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {name: parameter.grad for name, parameter in module.named_parameters() if "lora_" in name}
    assert all(gradient is not None for gradient in found.values())
    return found  # type: ignore[return-value]


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], tolerance: float) -> None:
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert (ours[name] - expected).norm() <= tolerance * expected.norm().clamp(min=1e-6), name


@pytest.mark.parametrize("merged", [False, True])
def test_a_group_of_layers_gives_what_pefts_layers_give(merged: bool) -> None:
    torch.manual_seed(0)
    plain = Layers()
    other = Layers()
    other.load_state_dict(plain.state_dict())
    targets = ["to_q", "to_k", "to_v", "out"]
    theirs, ours = (adapted(m, ours=o, targets=targets) for m, o in ((plain, False), (other, True)))
    if merged:
        MergedWeights(ours)._merge(None, None)
    inputs = [torch.randn(2, 5, 24, requires_grad=True)]
    inputs.append(inputs[0].detach().clone().requires_grad_())

    expected = theirs.out(
        torch.cat([theirs.to_q(inputs[0]), theirs.to_k(inputs[0]), theirs.to_v(inputs[0])], -1)
    )
    (got,) = project(torch.cat(project(inputs[1], ours.to_q, ours.to_k, ours.to_v), -1), ours.out)
    torch.testing.assert_close(got, expected)
    for output in (expected, got):
        output.square().sum().backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-4, atol=1e-5)
    assert_same(gradients(ours), gradients(theirs), 1e-5)


def test_under_autocast_the_products_are_in_its_type_and_the_gradients_in_the_parameters() -> None:
    torch.manual_seed(0)
    layers = adapted(Layers(), ours=True, targets=["to_q"])
    layers.to_q.base_layer.to(torch.bfloat16)
    x = torch.randn(3, 24)
    exact = layers.to_q.base_layer.weight.float() @ x.T
    exact += 0.5 * (layers.to_q.lora_B["default"].weight @ (layers.to_q.lora_A["default"].weight @ x.T))
    with torch.autocast("cpu", torch.bfloat16):
        y = layers.to_q(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), exact.T, rtol=0.05, atol=0.05)
    y.float().sum().backward()
    assert {gradient.dtype for gradient in gradients(layers).values()} == {torch.float32}


@pytest.mark.parametrize("same_text", [True, False])
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("rank", [2, 8])
def test_a_unet_gives_the_pass_and_the_gradients_of_peft_and_diffusers(
    tmp_path: Path, family: str, rank: int, same_text: bool
) -> None:
    random_base(tmp_path, family)
    passes = []
    for ours in (False, True):
        unet: Any = UNet2DConditionModel.from_pretrained(tmp_path / "unet")
        adapted(unet, ours=ours, targets=_TARGETS, rank=rank)
        if ours:
            attention.install(unet)
            assert any("forward" in vars(module) for module in unet.modules()), "ours is in use"
            MergedWeights(unet)
        torch.manual_seed(1)
        rows = 3
        text = torch.randn(1 if same_text else rows, 77, unet.config.cross_attention_dim)
        added = {"text_embeds": torch.randn(rows, 32), "time_ids": torch.zeros(rows, 6)}
        output = unet(
            torch.randn(rows, 4, _SIDE, _SIDE),
            torch.tensor([1, 500, 900]),
            text.expand(rows, -1, -1),
            added_cond_kwargs=added if family == "sdxl" else None,
        ).sample
        output.square().mean().backward()
        passes.append((output.detach(), gradients(unet)))
    (expected, theirs), (got, ours_found) = passes
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert_same(ours_found, theirs, 1e-3)


def test_what_is_merged_follows_the_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random_base(tmp_path / "bases" / "small", "sd1")
    monkeypatch.setenv("BASE_MODELS_DIR", str(tmp_path / "bases"))
    base = resolve_base("small")
    learner = Learner(
        pipeline := load_pipeline(base, torch.float32), options(base_model="small").resolved(base)
    )
    unet: Any = pipeline.unet
    inputs = (torch.randn(1, 4, _SIDE, _SIDE), torch.tensor([10]), torch.randn(1, 77, 32))
    with torch.no_grad():
        first = unet(*inputs).sample
        for parameter in learner.parameters().values():
            parameter.add_(0.1)
        assert not torch.allclose(unet(*inputs).sample, first)
