"""Prints what pyproject.toml files depend on, a requirement a line, without Enlight's own packages."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def main(files: list[str]) -> None:
    """A line for each requirement, in the order of the files."""
    for file in files:
        for requirement in tomllib.loads(Path(file).read_text())["project"]["dependencies"]:
            if not requirement.startswith("enlight-"):
                print(requirement)


if __name__ == "__main__":
    main(sys.argv[1:])
