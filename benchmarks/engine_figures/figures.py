"""The figures, each by the name that it has in the table."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from engine_figures.drawing import Bare, Ours, Stock
from engine_figures.models import TOGETHER, Workbench
from engine_figures.pairs import Spread, in_turns, seconds

_SWAPS = 100


@dataclass(frozen=True)
class Figure:
    """Ours, beside what stock diffusers gave in the same rounds where there is such a thing."""

    ours: Spread
    stock: Mapping[str, Spread]


Measure = Callable[[Workbench, int, int], Figure | None]


def lora_tax(bench: Workbench, pairs: int, steps: int) -> Figure:
    """(a picture with an adapter never seen − the base's) / the base's."""
    ours, stock, swapping = Ours(bench.engine, steps), Stock(bench, steps), Stock(bench, steps)
    swapping.hotswapped(bench.adapter()[1])
    taxes: dict[str, list[float]] = {"ours": [], "load_lora_weights": [], "hotswap": []}
    for number in range(pairs + 1):
        (mine, _), (_, loaded), (_, swapped) = bench.adapter(), bench.adapter(), bench.adapter()
        base = seconds(ours.picture)
        tax = {"ours": seconds(partial(ours.picture, mine)) / base - 1}
        plain = seconds(stock.picture)
        with_load = seconds(partial(stock.picture_with, loaded))
        with_swap = seconds(partial(swapping.hotswapped, swapped))
        stock.unload()
        tax |= {"load_lora_weights": with_load / plain - 1, "hotswap": with_swap / plain - 1}
        if number:
            for name, value in tax.items():
                taxes[name].append(value)
    spreads = {name: Spread.of(values) for name, values in taxes.items()}
    return Figure(spreads.pop("ours"), spreads)


def batch_gain(bench: Workbench, pairs: int, steps: int) -> Figure:
    """Pictures a second of eight at once with one adapter / of one alone with it."""
    ours = Ours(bench.engine, steps)
    name, _ = bench.adapter()
    ways = {"many": lambda: ours.at_once([name] * TOGETHER), "one": lambda: ours.picture(name)}
    rounds = in_turns(ways, pairs)
    return Figure(Spread.of([TOGETHER * taken["one"] / taken["many"] for taken in rounds]), {})


def mix_efficiency(bench: Workbench, pairs: int, steps: int) -> Figure:
    """Eight at once with one adapter / eight at once with eight, in time."""
    ours = Ours(bench.engine, steps)
    names = [bench.adapter()[0] for _ in range(TOGETHER)]
    ways = {"mixed": lambda: ours.at_once(names), "one": lambda: ours.at_once(names[:1] * TOGETHER)}
    rounds = in_turns(ways, pairs)
    return Figure(Spread.of([taken["one"] / taken["mixed"] for taken in rounds]), {})


def mix_gain(bench: Workbench, pairs: int, steps: int) -> Figure:
    """Eight pictures one after the other by diffusers' hotswap / the same eight at once, in time."""
    ours, stock = Ours(bench.engine, steps), Stock(bench, steps)
    adapters = [bench.adapter() for _ in range(TOGETHER)]

    def one_by_one() -> None:
        for _, folder in adapters:
            stock.hotswapped(folder)

    names = [name for name, _ in adapters]
    rounds = in_turns({"mixed": lambda: ours.at_once(names), "stock": one_by_one}, pairs)
    return Figure(Spread.of([taken["stock"] / taken["mixed"] for taken in rounds]), {})


def pipe_overhead(bench: Workbench, pairs: int, steps: int) -> Figure:
    """A picture of the base / (a bare UNet's forwards and the VAE's decoding)."""
    bare = Bare(bench, steps)
    ours, stock = Ours(bench.engine, steps), Stock(bench, steps)
    rounds = in_turns({"ours": ours.picture, "bare": bare.picture, "stock": stock.picture}, pairs)
    return Figure(
        Spread.of([taken["ours"] / taken["bare"] for taken in rounds]),
        {"pipeline": Spread.of([taken["stock"] / taken["bare"] for taken in rounds])},
    )


def join_delay(bench: Workbench, pairs: int, steps: int) -> Figure:
    """Steps of a running batch that a new picture, with an adapter and a prompt never seen, is not in."""
    ours = Ours(bench.engine, steps)
    delays = [_one_join(bench, ours, steps, number) for number in range(pairs + 1)]
    return Figure(Spread.of(delays[1:]), {})


def _one_join(bench: Workbench, ours: Ours, steps: int, number: int) -> float:
    engine = bench.engine
    adapter, _ = bench.adapter()
    under_way = threading.Event()
    # Long enough to run still when the other one joins.
    running = threading.Thread(
        target=engine.draw,
        args=[ours.request(steps=4 * steps)],
        kwargs={"on_step": lambda done, _: under_way.set() if done > 2 else None},
    )
    running.start()
    under_way.wait()
    before, joined = engine.counts.batches, []
    joining = ours.request(adapter, prompt=f"boat number {number}", steps=2)
    engine.draw(joining, on_step=lambda _done, _all: joined.append(engine.counts.batches))
    running.join()
    return float(joined[0] - before - 1)


def swap_recompiles(bench: Workbench, pairs: int, steps: int) -> Figure | None:
    """Drawings, of a hundred with adapters never seen and some with eight at once, for which torch would have
    compiled something; none where it cannot compile at all.
    """
    engine = bench.compiled_engine()
    if engine is None:
        return None
    ours, needed = Ours(engine, min(steps, 4)), 0
    torch.compiler.set_stance("fail_on_recompile")
    try:
        for number in range(_SWAPS):
            names = [bench.adapter()[0] for _ in range(1 if number % 10 else TOGETHER)]
            try:
                ours.at_once(names)
            except RuntimeError:
                needed += 1
    finally:
        torch.compiler.set_stance("eager_on_recompile")
    return Figure(Spread.of([float(needed)]), {})


FIGURES: Mapping[str, Measure] = {
    "lora_tax": lora_tax,
    "batch_gain": batch_gain,
    "mix_efficiency": mix_efficiency,
    "mix_gain": mix_gain,
    "pipe_overhead": pipe_overhead,
    "join_delay": join_delay,
    "swap_recompiles": swap_recompiles,
}
#: What the project aims at; a hardware's own where it is None.
AIMS: Mapping[str, float | None] = {
    "lora_tax": 0.05,
    "batch_gain": None,
    "mix_efficiency": 0.95,
    "mix_gain": None,
    "pipe_overhead": 1.02,
    "join_delay": 1,
    "swap_recompiles": 0,
}
