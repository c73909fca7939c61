"""Compiled blocks give the same pictures, and whoever draws what with whom compiles nothing any more."""

from __future__ import annotations

import functools
import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from denoising_parts import EQUAL, Wanted, plain_unet, step_all, under_way
from diffusers import UNet2DConditionModel
from dreambooth_api.inference.denoising import rehearsal as rehearsals
from dreambooth_api.inference.denoising.adapter_sets import AdapterUse, adapter_set
from dreambooth_api.inference.denoising.adapters import SLOTS, BatchAdapters
from dreambooth_api.inference.denoising.batch_sizes import BatchSizes
from dreambooth_api.inference.denoising.compiled_blocks import CompilerFailed, compile_blocks
from dreambooth_api.inference.denoising.denoiser import Denoiser
from dreambooth_api.inference.denoising.rehearsal import CONTROL, KINDS, Kind, Rehearsal
from dreambooth_api.inference.denoising.underway import PictureUnderWay
from dreambooth_api.inference.lora import AdapterWeights, LoraLayers
from dreambooth_api.models.artifact import ModelKey
from lora_parts import ATTENTION, EVERYTHING, as_diffusers, random_lora, read
from torch import Tensor

Graph = Callable[..., Any]
#: Of the network below, all of one width: each kind of batch is compiled once.
BLOCKS = 6
ADAPTERS = 5
MIXED = Kind(guided=True, adapted="attention", mixed=True)


def network(unit_bytes: int = 10**9) -> tuple[Any, LoraLayers]:
    """A small UNet of random weights that takes tiny-sd's texts."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(32, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=4,
        cross_attention_dim=plain_unet().config.cross_attention_dim,
        norm_num_groups=8,
    ).eval()
    return unet.requires_grad_(False), LoraLayers(unet, slots=SLOTS, unit_bytes=unit_bytes)


@functools.cache
def weights(number: int) -> AdapterWeights:
    """Adapter *number*: of the attention layers, or of everything."""
    unet, _ = network()
    targets = EVERYTHING if number % 3 == 2 else ATTENTION
    lora = as_diffusers(random_lora(unet, targets, seed=number, rank=2 + number))
    with tempfile.TemporaryDirectory() as folder:
        return read(Path(folder), {"unet": unet}, lora)


@dataclass(frozen=True)
class Asked:
    """A picture, with numbers of adapters and their weights."""

    wanted: Wanted
    adapters: tuple[tuple[int, float], ...] = ()

    def picture(self, keyed: str = "") -> PictureUnderWay:
        picture = under_way(self.wanted)
        uses = [
            AdapterUse(ModelKey("default", f"{keyed}{number}", "1"), weights(number % ADAPTERS), weight)
            for number, weight in self.adapters
        ]
        picture.adapters = adapter_set(uses)
        return picture


def steps_of(unet: Any, layers: LoraLayers) -> Denoiser:
    return Denoiser(unet, BatchAdapters(layers), BatchSizes(8, 10**9), torch.device("cpu"), torch.float32)


@functools.cache
def alone(asked: Asked) -> Tensor:
    """Its latents where it is drawn alone, and nothing is compiled."""
    picture = asked.picture()
    step_all(steps_of(*network()), {0: [picture]})
    return picture.latents


def error(asked: Asked, picture: PictureUnderWay) -> float:
    return float((picture.latents - alone(asked)).abs().max())


def tensor_bytes() -> int:
    gc.collect()
    alive = [one for one in gc.get_objects() if type(one) in (Tensor, torch.nn.Parameter)]
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in alive}
    return sum(storages.values())


def rehearsal(unet: Any, layers: LoraLayers) -> Rehearsal:
    guided, unguided = (
        [under_way(Wanted(seed=seed, guidance=guidance)) for seed in range(2)] for guidance in (4.0, 1.0)
    )
    control = [under_way(Wanted(seed=seed, width=96)) for seed in range(3)]
    return Rehearsal(unet, layers, guided, unguided, control, torch.float32)


@contextmanager
def compiler_as_it_was() -> Iterator[None]:
    torch._dynamo.reset()
    try:
        yield
    finally:
        torch.compiler.set_stance("default")
        torch._dynamo.reset()


@dataclass
class Compiled:
    """A UNet that was compiled, and how often its graphs were computed."""

    unet: Any
    layers: LoraLayers
    calls: int = 0

    def backend(self, graph: Graph, _inputs: Any) -> Graph:
        """Of torch's compiler all but the code generator: what is compiled when is not up to that."""

        def counted(*inputs: Any) -> Any:
            self.calls += 1
            return graph(*inputs)

        return counted


@pytest.fixture(scope="module", params=[10**9, 0], ids=["whole", "low-rank"])
def compiled(request: pytest.FixtureRequest) -> Iterator[Compiled]:
    made = Compiled(*network(unit_bytes=request.param))
    with compiler_as_it_was():
        assert compile_blocks(
            made.unet, rehearsal(made.unet, made.layers), must_pay=False, backend=made.backend
        )
        # Sterner than in service, where what would have to be compiled is computed without.
        torch.compiler.set_stance("fail_on_recompile")
        yield made


def test_batches_of_all_kinds_are_the_same_pictures_and_compile_nothing(compiled: Compiled) -> None:
    unguided = {"guidance": 1.0}
    arrivals = {
        0: [Asked(Wanted(), ((0, 1.0),)), Asked(Wanted(seed=1))],
        1: [
            Asked(Wanted(seed=2), ((1, 0.7), (2, -1.0))),
            Asked(Wanted(seed=3, sampler="euler_a"), ((0, 1.0),)),
        ],
        2: [Asked(Wanted(seed=4 + more), ((more, 1.0),)) for more in range(4)],
        15: [Asked(Wanted(seed=more), ((more // 2, 1.0),)) for more in range(4)],
        20: [Asked(Wanted(seed=9, **unguided), ((4, 1.0),)), Asked(Wanted(seed=10, **unguided))],
        40: [Asked(Wanted(seed=11, width=96)), Asked(Wanted(seed=12, width=96), ((2, 1.0),))],
        60: [Asked(Wanted(seed=13, steps=2, sampler="lcm", **unguided))],
    }
    pictures = {number: [(one, one.picture()) for one in asked] for number, asked in arrivals.items()}
    before, steps = compiled.calls, steps_of(compiled.unet, compiled.layers)
    step_all(steps, {number: [picture for _, picture in some] for number, some in pictures.items()})
    assert compiled.calls - before == BLOCKS * steps.counts.batches
    for asked, picture in (pair for some in pictures.values() for pair in some):
        assert error(asked, picture) < EQUAL


def test_a_hundred_adapters_compile_nothing(compiled: Compiled) -> None:
    before, steps = compiled.calls, steps_of(compiled.unet, compiled.layers)
    one_step = Wanted(steps=1, sampler="ddim")
    for number in range(0, 100, 2):
        asked = [Asked(one_step, ((number + more, 1.0),)) for more in range(2)]
        pictures = [one.picture("new") for one in asked]
        step_all(steps, {0: pictures})
        assert all(error(one, drawn) < EQUAL for one, drawn in zip(asked, pictures, strict=True))
    assert compiled.calls - before == BLOCKS * steps.counts.batches


def test_what_was_not_rehearsed_is_computed_without_being_compiled(compiled: Compiled) -> None:
    compiled.layers.use(None)
    text = torch.zeros(2, 77, compiled.unet.config.cross_attention_dim)
    torch.compiler.set_stance("eager_on_recompile")
    try:
        before = compiled.calls
        with torch.no_grad():
            # A plain pipeline's way: outside of a batch, text and all, without inference mode.
            drawn = compiled.unet(torch.zeros(2, 4, 8, 8), torch.tensor([1, 1]), text)
        assert compiled.calls == before
        assert drawn.sample.isfinite().all()
    finally:
        torch.compiler.set_stance("fail_on_recompile")


def _untouched(unet: Any) -> bool:
    return not any("forward" in module.__dict__ for module in unet.modules())


def failing(_graph: Graph, _inputs: Any) -> Graph:
    raise RuntimeError("no compiler here\nand much more")


def wrong(graph: Graph, _inputs: Any) -> Graph:
    return lambda *inputs: tuple(output * 1.1 for output in graph(*inputs))


def not_a_number(graph: Graph, _inputs: Any) -> Graph:
    return lambda *inputs: tuple(output * float("nan") for output in graph(*inputs))


def everybodys_is_the_first(graph: Graph, _inputs: Any) -> Graph:
    """As a product that mixes people's adapters up: only a batch with several shows it."""

    def mixed_up(*inputs: Any) -> Any:
        return graph(*[_all_as_first(one) for one in inputs])

    return mixed_up


def _all_as_first(one: Any) -> Any:
    if not isinstance(one, Tensor) or one.dim() != 3 or one.shape[0] != 2 or one.shape[1] == 77:
        return one
    return one[:1].expand_as(one)


def slow(graph: Graph, _inputs: Any) -> Graph:
    def later(*inputs: Any) -> Any:
        time.sleep(0.02)
        return graph(*inputs)

    return later


@pytest.mark.parametrize("backend", [failing, wrong, not_a_number, everybodys_is_the_first, slow])
def test_a_compiler_that_fails_errs_or_does_not_pay_leaves_the_blocks_as_they_were(
    backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = (MIXED,) if backend is everybodys_is_the_first else (KINDS[0], CONTROL)
    monkeypatch.setattr(rehearsals, "KINDS", kinds)
    unet, layers = network()
    with compiler_as_it_was():
        if backend is slow:
            assert not compile_blocks(unet, rehearsal(unet, layers), must_pay=True, backend=backend)
        else:
            with pytest.raises(CompilerFailed) as failed:
                compile_blocks(unet, rehearsal(unet, layers), must_pay=True, backend=backend)
            assert ("no compiler here" if backend is failing else "gives something else") in str(failed.value)
            assert "much more" not in str(failed.value)
        assert _untouched(unet)


def test_real_compiled_code_gives_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rehearsals, "KINDS", (MIXED,))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    unet, layers = network()
    asked = [Asked(Wanted(), ((number, 1.0),)) for number in (0, 1, 3)]
    pictures = [one.picture() for one in asked]
    with compiler_as_it_was():
        assert compile_blocks(unet, rehearsal(unet, layers), must_pay=False)
        torch.compiler.set_stance("fail_on_recompile")
        step_all(steps_of(unet, layers), {0: pictures})
    assert list(tmp_path.rglob("*.so"))
    assert all(error(one, picture) < EQUAL for one, picture in zip(asked, pictures, strict=True))


def test_what_a_rehearsal_took_of_the_memory_is_given_back() -> None:
    unet, layers = network()
    rehearsed = rehearsal(unet, layers)
    given = torch.zeros(2, 4, 8, 8), torch.tensor([1, 1]), torch.zeros(2, 77, unet.config.cross_attention_dim)
    before, bytes_before = unet(*given).sample, tensor_bytes()
    for _, way in rehearsed.batches():
        way()
    del way  # with its pictures
    assert tensor_bytes() > bytes_before + 10**6
    rehearsed.close()
    assert tensor_bytes() <= bytes_before
    assert torch.equal(unet(*given).sample, before)
