"""Every row of a batch is computed with its own adapters, as plain diffusers computes it alone."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from dreambooth_api.inference.lora import (
    AdapterWeights,
    Gathered,
    HostAdapters,
    LoraLayers,
    NoFreeSlot,
    buffers,
)
from dreambooth_api.inference.lora.layout import LayerGroup
from dreambooth_api.inference.lora.rows import MergedRows
from dreambooth_api.inference.lora.weights import GroupFactors
from lora_parts import (
    ATTENTION,
    EVERYTHING,
    FEED_FORWARD,
    PROJECTIONS,
    ROWS,
    TEXT,
    UNETS,
    Inputs,
    as_diffusers,
    forward,
    inputs,
    plain_with,
    random_lora,
    read,
    relative_difference,
    small_text_encoder,
    tiny_unet,
)
from torch import Tensor, nn

SAME = 1e-4
#: How the rows' weights are kept: whole for each, or as low-rank matrices for want of memory.
KEPT = {"whole": 10**9, "low-rank": 0}

#: Of each kind of bundle one layer of many.
A_FEW = [f"up_blocks.1.attentions.0.transformer_blocks.0.{name}" for name in ("attn1.to_v", "attn2.to_k")]


# What diffusers gives, by family and adapters: the same for every ``Drawn``.
_EXPECTED: dict[tuple[object, ...], Tensor] = {}


class Drawn:
    """A UNet with its LoRA layers, a plain copy, and adapters of several kinds and ranks."""

    def __init__(self, family: str, folder: Path, unit_bytes: int = 10**9) -> None:
        self.plain, self.unet = UNETS[family](), UNETS[family]()
        self.loras = {
            "attention": as_diffusers(random_lora(self.unet, ATTENTION, seed=1, rank=4)),
            "other": as_diffusers(random_lora(self.unet, ATTENTION, seed=2, rank=7)),
            "feed-forward": as_diffusers(random_lora(self.unet, FEED_FORWARD, seed=3, rank=1)),
            "projections": as_diffusers(random_lora(self.unet, PROJECTIONS, seed=4, rank=16)),
            "everything": as_diffusers(random_lora(self.unet, EVERYTHING, seed=5, rank=3, strength=0.08)),
            "a few": as_diffusers(random_lora(self.unet, A_FEW, strength=3.0)),
        }
        parts = {"unet": self.unet}
        self.adapters = {name: read(folder, parts, keys) for name, keys in self.loras.items()}
        self.layers = LoraLayers(self.unet, unit_bytes=unit_bytes)
        self._family = family

    def rows(self, wanted: Sequence[Mapping[str, float]]) -> list[dict[int, float]]:
        """By slot what *wanted* says by name."""
        slots = {name: self.layers.place(name, self.adapters[name]) for row in wanted for name in row}
        return [{slots[name]: weight for name, weight in row.items()} for row in wanted]

    def forward(self, given: Inputs, wanted: Sequence[Mapping[str, float]], *, ready: bool) -> Tensor:
        """The batch by ours; *ready*: with keys and values of the text made before."""
        rows = self.rows(wanted)
        text = [
            self.layers.text_keys_values(given.embeddings[number : number + 1], row)
            for number, row in enumerate(rows)
        ]
        return self.with_gathered(self.layers.gather(rows, text if ready else None), given)

    def with_gathered(self, gathered: Gathered | None, given: Inputs) -> Tensor:
        """The batch by ours, with the base model in use again after it."""
        self.layers.use(gathered)
        drawn = forward(self.unet, given)
        self.layers.use(None)
        return drawn

    def expected(self, wanted: Sequence[Mapping[str, float]]) -> Tensor:
        """What diffusers gives for the first rows of `inputs`, each with its adapters switched on alone."""
        return torch.stack([self._all_rows(row)[number] for number, row in enumerate(wanted)])

    def _all_rows(self, adapters: Mapping[str, float]) -> Tensor:
        key = (self._family, *adapters.items())
        if key not in _EXPECTED:
            network = self._with_peft if adapters else self.plain
            if adapters:
                names = [f"adapter{list(self.loras).index(name)}" for name in adapters]
                network.set_adapters(names, list(adapters.values()))
            _EXPECTED[key] = forward(network, inputs(network, ROWS))
        return _EXPECTED[key]

    @cached_property
    def _with_peft(self) -> Any:
        return plain_with(self.plain, *((keys, 1.0) for keys in self.loras.values()))


@pytest.fixture(scope="module", params=UNETS)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=KEPT)
def drawn(request: pytest.FixtureRequest, family: str, tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return Drawn(family, tmp_path_factory.mktemp("drawn"), KEPT[request.param])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return Drawn("sd1", tmp_path_factory.mktemp("tiny"))


MIXED: list[dict[str, float]] = [
    {"attention": 1.0},
    {"attention": 0.7},
    {"other": -1.0},
    {"attention": 0.0},
    {"feed-forward": 0.7},
    {"projections": 1.0},
    {"everything": 0.7},
    {"a few": 1.0},
    {"attention": 0.7, "other": -1.0, "everything": 0.5},
    {},
]


@pytest.mark.parametrize("ready", [False, True], ids=["text each step", "text once"])
def test_a_row_is_plain_diffusers_own_whatever_the_other_rows_have(drawn: Drawn, ready: bool) -> None:
    given = inputs(drawn.unet, len(MIXED))
    expected = drawn.expected(MIXED)
    assert relative_difference(drawn.forward(given, MIXED, ready=ready), expected) < SAME
    base = drawn.expected([{}] * len(MIXED))
    differing = [
        relative_difference(one, other) > 10 * SAME for one, other in zip(expected, base, strict=True)
    ]
    assert differing == [bool(any(row.values())) for row in MIXED], (
        "the adapters are strong enough to be seen"
    )


def test_rows_of_guidance_share_their_pictures_adapters(drawn: Drawn) -> None:
    wanted = [row for row in MIXED[:4] for _ in range(2)]
    given = inputs(drawn.unet, 8)
    assert relative_difference(drawn.forward(given, wanted, ready=True), drawn.expected(wanted)) < SAME


def test_a_picture_without_guidance_goes_beside_those_with(drawn: Drawn) -> None:
    wanted = [{"attention": 1.0}, {"attention": 1.0}, {"other": 1.0}, {"other": 1.0}, {"projections": 1.0}]
    given = inputs(drawn.unet, 5)
    assert relative_difference(drawn.forward(given, wanted, ready=True), drawn.expected(wanted)) < SAME


@pytest.mark.parametrize("rows", [1, 2, 8])
def test_a_batch_of_one_set_is_plain_diffusers_own(drawn: Drawn, rows: int) -> None:
    wanted = [{"everything": 0.7, "other": 0.5}] * rows
    given = inputs(drawn.unet, rows)
    assert relative_difference(drawn.forward(given, wanted, ready=True), drawn.expected(wanted)) < SAME


def test_what_others_have_changes_no_row(drawn: Drawn) -> None:
    given = inputs(drawn.unet, 4)
    mine: dict[str, float] = {"attention": 0.7}
    one = drawn.forward(given, [mine, {}, {"other": 1.0}, {"a few": 1.0}], ready=True)
    other = drawn.forward(
        given, [mine, {"everything": -1.0}, {}, {"projections": 0.7, "other": 2.0}], ready=True
    )
    assert relative_difference(one[:1], other[:1]) < SAME
    assert relative_difference(one[1:], other[1:]) > 10 * SAME


def test_a_batch_without_adapters_is_the_base_model_bit_for_bit(drawn: Drawn) -> None:
    given = inputs(drawn.unet, 4)
    expected = forward(drawn.plain, given)
    drawn.forward(given, [{"everything": 1.0}] * 4, ready=True)
    assert torch.equal(forward(drawn.unet, given), expected)
    assert relative_difference(drawn.forward(given, [{}] * 4, ready=True), expected) < 1e-5
    assert torch.equal(forward(drawn.unet, given), expected)


def test_pictures_that_come_and_go_leave_no_trace_in_those_that_stay(drawn: Drawn) -> None:
    given = inputs(drawn.unet, 8)
    stays: dict[str, float] = {"attention": 1.0, "other": 0.5}
    expected = drawn.expected([stays])
    guests: list[list[dict[str, float]]] = [
        [],
        [{"everything": 1.0}],
        [{"projections": 1.0}, {"a few": -1.0}, {"everything": 0.7}],
        [{"everything": 1.0}, {}],
        [stays, stays],
        [],
    ]
    for others in guests:
        wanted = [stays, *others]
        output = drawn.forward(given.of(slice(len(wanted))), wanted, ready=True)
        assert relative_difference(output[:1], expected) < SAME


def test_adapters_leave_the_base_model_as_it_was(drawn: Drawn) -> None:
    before = {name: weight.clone() for name, weight in drawn.plain.state_dict().items()}
    drawn.forward(inputs(drawn.unet, 3), [{"everything": 1.0}, {"other": 1.0}, {}], ready=True)
    after = drawn.unet.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_merged_adapters_are_plain_diffusers_own_and_leave_no_trace(drawn: Drawn) -> None:
    given = inputs(drawn.unet, 3)
    before = forward(drawn.unet, given)
    merged = [(drawn.adapters["everything"], 0.7), (drawn.adapters["attention"], -1.0)]
    expected = drawn.expected([{"everything": 0.7, "attention": -1.0}] * 3)
    drawn.layers.use(drawn.layers.gather_merged(merged))
    assert relative_difference(forward(drawn.unet, given), expected) < 1e-5
    drawn.layers.use(None)
    assert torch.equal(forward(drawn.unet, given), before)


def test_a_merge_that_fails_leaves_the_base_model(tiny: Drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs(tiny.unet, 2)
    before = forward(tiny.unet, given)
    done: list[int] = []

    def failing(base: Tensor, adapters: Any) -> Tensor:
        done.append(1)
        if len(done) == 3:
            raise torch.OutOfMemoryError
        return base

    with monkeypatch.context() as patched:
        patched.setattr(buffers, "merged", failing)
        with pytest.raises(torch.OutOfMemoryError):
            tiny.layers.gather_merged([(tiny.adapters["everything"], 0.5)])
    assert torch.equal(forward(tiny.unet, given), before)


def test_a_gathering_that_failed_is_made_good_by_the_next(
    tiny: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = inputs(tiny.unet, 2)
    wanted: list[dict[str, float]] = [{"everything": 0.7}, {"other": 1.0}]
    expected = tiny.expected(wanted)

    def failing(base: Tensor, adapters: Any) -> Tensor:
        raise torch.OutOfMemoryError

    tiny.forward(given, wanted, ready=True)
    with monkeypatch.context() as patched:
        patched.setattr(buffers, "merged", failing)
        with pytest.raises(torch.OutOfMemoryError):
            tiny.forward(given, [{"projections": 1.0}, {"everything": 1.0}], ready=True)
    assert relative_difference(tiny.forward(given, wanted, ready=True), expected) < SAME


def test_what_was_gathered_before_something_else_is_refused(tiny: Drawn) -> None:
    given = inputs(tiny.unet, 2)
    before = forward(tiny.unet, given)
    first = tiny.layers.gather(tiny.rows([{"other": 1.0}, {}]))
    tiny.layers.use(first)
    second = tiny.layers.gather(tiny.rows([{}, {"other": 1.0}]))
    # The gathering took the first one's place: the layers are the base model's until told otherwise.
    assert torch.equal(forward(tiny.unet, given), before)
    with pytest.raises(RuntimeError, match="gathered before"):
        tiny.layers.use(first)
    assert tiny.layers.is_fresh(second)
    assert not tiny.layers.is_fresh(first)


def test_diffusers_own_adapters_work_on_the_same_layers(tmp_path: Path) -> None:
    drawn = Drawn("sd1", tmp_path)
    given = inputs(drawn.unet, 2)
    mixed: list[dict[str, float]] = [{"other": 1.0}, {"everything": 1.0}]
    before, expected = forward(drawn.unet, given), drawn.expected(mixed)
    reference = forward(plain_with(drawn.plain, (drawn.loras["everything"], 0.7)), given)
    drawn.unet.load_lora_adapter(dict(drawn.loras["everything"]), prefix="unet", adapter_name="one")
    drawn.unet.set_adapters(["one"], [0.7])
    assert relative_difference(forward(drawn.unet, given), reference) < SAME
    drawn.unet.disable_lora()
    assert relative_difference(drawn.forward(given, mixed, ready=True), expected) < SAME
    drawn.unet.delete_adapters("one")
    assert torch.equal(forward(drawn.unet, given), before)
    assert relative_difference(drawn.forward(given, mixed, ready=True), expected) < SAME


def test_a_text_encoder_with_merged_adapters_is_plain_diffusers_own(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    plain, encoder = small_text_encoder(), small_text_encoder()
    keys = as_diffusers(random_lora(encoder, TEXT, rank=4), "text_encoder")
    weights = read(tmp_path, {"text_encoder": encoder}, keys)
    layers = LoraLayers(encoder, part="text_encoder")
    tokens = torch.tensor([[5, 6, 7, 8, 9, 10, 98]])
    with torch.no_grad():
        base = encoder(tokens)[0]
        layers.use(layers.gather_merged([(weights, 0.7)]))
        drawn = encoder(tokens)[0]
        layers.use(None)
        StableDiffusionPipeline.load_lora_into_text_encoder(
            keys, None, plain, prefix="text_encoder", lora_scale=0.7
        )
        expected = plain(tokens)[0]
        assert relative_difference(drawn, expected) < 1e-5
        assert relative_difference(drawn, base) > 10 * SAME
        assert torch.equal(encoder(tokens)[0], base)


def test_keys_and_values_stay_what_they_are_when_their_adapter_leaves(tiny: Drawn) -> None:
    given = inputs(tiny.unet, 1)
    (row,) = tiny.rows([{"attention": 1.0}])
    text = tiny.layers.text_keys_values(given.embeddings, row)
    before = {group: made.clone() for group, made in text.by_group.items()}
    for number in range(8):
        tiny.layers.place(f"guest {number}", tiny.adapters["other"])
    assert all(torch.equal(made, before[group]) for group, made in text.by_group.items())


def test_texts_of_another_number_of_rows_than_the_batch_are_an_error(tiny: Drawn) -> None:
    text = tiny.layers.text_keys_values(inputs(tiny.unet, 2).embeddings)
    with pytest.raises(ValueError, match="rows"):
        tiny.layers.gather([{}], [text])


def test_the_adapter_longest_not_used_leaves_its_slot(tmp_path: Path) -> None:
    unet = tiny_unet()
    weights = read(tmp_path, {"unet": unet}, as_diffusers(random_lora(unet)))
    layers = LoraLayers(unet, slots=2)
    first, second = layers.place("one", weights), layers.place("two", weights)
    assert layers.place("one", weights) == first
    assert layers.place("three", weights) == second
    assert layers.place("four", weights, in_use={first}) == second
    with pytest.raises(NoFreeSlot):
        layers.place("five", weights, in_use={first, second})
    assert layers.place("four", weights, in_use={first, second}) == second


def test_batches_with_other_adapters_take_no_other_memory(tiny: Drawn) -> None:
    one = tiny.layers.gather(tiny.rows([{"attention": 1.0}, {"other": 1.0}]))
    before = [weights.data_ptr() for weights in _whole_weights(one)]
    tiny.layers.gather(tiny.rows([{"everything": 1.0}, {"other": 1.0}, {}]))
    after = tiny.layers.gather(tiny.rows([{"other": 0.5}, {"attention": 2.0}]))
    assert [weights.data_ptr() for weights in _whole_weights(after)] == before


def test_matrices_of_ranks_that_are_not_drawn_any_more_leave_the_memory() -> None:
    group = LayerGroup("layer", (32, 32), ("one",))
    buffer = buffers.FactorBuffer(group, [torch.nn.Linear(32, 32)])

    def bytes_with(rank: int) -> int:
        factors = GroupFactors((0,), None, torch.ones(1, rank, 32), torch.ones(1, 32, rank))
        buffer.put([buffers.UnitFactors(rank, ((factors, 1.0),))], 1, frozenset({0}), 8)
        return sum(kept._downs.nbytes + kept._ups.nbytes for kept in buffer._by_rank.values())

    ordinary = [bytes_with(rank) for rank in (4, 8)]
    assert bytes_with(512) > 10 * max(ordinary)
    assert [bytes_with(rank) for rank in (4, 8)][-1] == ordinary[-1]


def test_a_network_that_was_converted_afterwards_is_an_error_and_not_another_picture(tmp_path: Path) -> None:
    drawn = Drawn("sd1", tmp_path)
    drawn.unet.to(torch.float64)
    with pytest.raises(RuntimeError, match="converted"):
        drawn.layers.gather(drawn.rows([{"attention": 1.0}]))


def test_half_precision_gives_a_picture_the_same_weights_alone_and_among_others(tmp_path: Path) -> None:
    unet = tiny_unet().to(torch.bfloat16)
    weights = read(tmp_path, {"unet": unet}, as_diffusers(random_lora(unet)))
    other = read(tmp_path, {"unet": unet}, as_diffusers(random_lora(unet, seed=2)))
    half = [_in_bfloat16(one) for one in (weights, other)]
    layers = LoraLayers(unet)
    mine, guest = layers.place("mine", half[0]), layers.place("guest", half[1])
    alone = layers.gather([{mine: 1.0}])
    weights_alone = _first_unit(alone)
    among = layers.gather([{mine: 1.0}, {guest: 1.0}])
    assert all(torch.equal(one, two) for one, two in zip(weights_alone, _first_unit(among), strict=True))


def _in_bfloat16(weights: AdapterWeights) -> AdapterWeights:
    return AdapterWeights(weights._flat.bfloat16(), weights._extents, weights._groups)


def _first_unit(gathered: Gathered) -> list[Tensor]:
    return [weights[0].clone() for weights in _whole_weights(gathered)]


def _whole_weights(gathered: Gathered) -> list[Tensor]:
    bundles = [one for rows in gathered.groups if rows is not None for one in rows.bundles]
    return [one.weights for one in bundles if isinstance(one, MergedRows)]


def test_a_thousand_adapters_through_eight_slots_take_no_more_memory_and_leave_no_trace(
    tmp_path: Path,
) -> None:
    unet = tiny_unet()
    layers = LoraLayers(unet, slots=8)
    targets = [
        f"up_blocks.3.attentions.0.transformer_blocks.0.{name}" for name in ("attn1.to_q", "attn2.to_k")
    ]
    loras = [as_diffusers(random_lora(unet, targets, seed=seed)) for seed in range(10)]
    files = [read(tmp_path, {"unet": unet}, keys) for keys in loras]
    host = HostAdapters(20 * files[0].bytes, torch.device("cpu"))
    given = inputs(unet, 4)

    def draw(number: int) -> Tensor:
        def load() -> AdapterWeights:
            original = files[number % 10]
            return AdapterWeights(original._flat.clone(), original._extents, original._groups)

        slots = [layers.place(key, host.get(key, load)) for key in (number, -1)]
        rows = [{slots[0]: 1.0}, {slots[0]: 1.0}, {slots[1]: 0.7}, {}]
        own = layers.text_keys_values(given.embeddings[:2], rows[0])
        others = layers.text_keys_values(given.embeddings[2:], rows[2])
        gathered = layers.gather(rows, [own, others])
        if number % 250:
            return torch.empty(0)
        layers.use(gathered)
        return forward(unet, given)

    first = draw(1000)
    sizes = []
    for number in range(1000):
        draw(number)
        if number in (100, 999):
            sizes.append(_bytes_of_tensors())
    assert sizes[0] == sizes[1]
    assert host.bytes <= 20 * files[0].bytes
    assert torch.equal(draw(1000), first)


def _bytes_of_tensors() -> int:
    gc.collect()
    storages = {
        found.untyped_storage().data_ptr(): found.untyped_storage().nbytes()
        for found in gc.get_objects()
        # torch's compiler, where it was tested before, leaves tensors without memory.
        if type(found) in (Tensor, nn.Parameter)
    }
    return sum(storages.values())
