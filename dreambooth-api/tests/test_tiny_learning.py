"""The point of it all: a subject that the base model cannot draw is learned from five photos."""

from __future__ import annotations

from pathlib import Path

import pytest
from learning_parts import assert_learned, compared_with_base, learn


# Fewer than the default 400: twice as much of the subject's colours is drawn by then as is asked for, and one
# and a half times as much by the method that takes longer.
@pytest.mark.slow
@pytest.mark.parametrize(("method", "steps"), [("lora", "200"), ("full", "300")], ids=["lora", "full"])
def test_the_subject_appears_in_new_surroundings(method: str, steps: str, tmp_path: Path) -> None:
    assert_learned(compared_with_base(learn(tmp_path, "--method", method, "--steps", steps)))
