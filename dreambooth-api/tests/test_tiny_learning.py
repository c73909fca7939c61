"""The point of it all: a subject that the base model cannot draw is learned from five photos."""

from __future__ import annotations

from pathlib import Path

import pytest
from learning_parts import assert_learned, compared_with_base, learn


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_subject_appears_in_new_surroundings(method: str, tmp_path: Path) -> None:
    assert_learned(compared_with_base(learn(tmp_path, "--method", method)))
