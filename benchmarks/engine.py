"""What the engine's pictures cost beside bare diffusers: adapters, batches, joining.

    .venv/bin/python benchmarks/engine.py [--only lora_tax,pipe_overhead] [--pairs 30] [--steps 20]
                                          [--size tiny|sd15|sdxl] [--json FILE]

Each figure is a ratio whose sides take turns in one process; printed are the median over the pairs and the
quartiles. Full-size models have random weights and want a GPU. Training's figures: engine_training.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
from pathlib import Path
from typing import Any

from enlight_common import openmp

# Before torch is imported, as the service's start does.
os.environ.update({**openmp.WAITING, **os.environ})

import diffusers
import torch
import transformers
from engine_figures.figures import AIMS, FIGURES, Figure
from engine_figures.models import workbench


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=lambda names: names.split(","), default=list(FIGURES))
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--size", choices=["tiny", "sd15", "sdxl"], default="tiny")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if unknown := set(args.only) - set(FIGURES):
        parser.error(f"no such figure: {', '.join(sorted(unknown))}; there are {', '.join(FIGURES)}")
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    machine = describe(device)
    print(f"{machine}; {args.size}, {args.steps} steps, {args.pairs} pairs")
    figures: dict[str, Figure | None] = {}
    with workbench(args.size, device) as bench:
        print(f"{'':18}{'ours':>26}{'aim':>8}  stock in the same rounds")
        for name in args.only:
            figures[name] = FIGURES[name](bench, args.pairs, args.steps)
            print(row(name, figures[name]), flush=True)
    if args.json:
        settings = {"machine": machine, "size": args.size, "steps": args.steps, "pairs": args.pairs}
        args.json.write_text(json.dumps(settings | {"figures": as_json(figures)}, indent=2) + "\n")


def describe(device: str) -> str:
    """The machine, in words."""
    models = [line for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    processor = models[0].partition(":")[2].strip() if models else platform.machine()
    accelerator = torch.cuda.get_device_name() if device == "cuda" else "no GPU"
    return f"{os.cpu_count()} cores of {processor}, {torch.get_num_threads()} threads, {accelerator}"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def row(name: str, figure: Figure | None) -> str:
    """A line of the table."""
    aim = AIMS[name]
    if figure is None:
        return f"{name:18}{'nothing to compile with':>26}"
    stock = ", ".join(f"{way} {spread}" for way, spread in figure.stock.items())
    return f"{name:18}{figure.ours!s:>26}{'' if aim is None else aim:>8}  {stock}"


def as_json(figures: dict[str, Figure | None]) -> dict[str, Any]:
    return {name: figure and dataclasses.asdict(figure) for name, figure in figures.items()}


if __name__ == "__main__":
    main()
