"""The learning rate as a pure function of the step."""

from __future__ import annotations


def warm_stable_decay(step: int, total: int, warm: int = 100, decay_share: float = 0.3) -> float:
    """A factor from 0 to 1: linear warm-up, a plateau, then linear to nearly 0 over the last share.

    Unlike a cosine, the plateau can be cut short or prolonged without regret: a run that is resumed
    with another ``total`` differs only from where the decay begins.
    """
    rising = min(1.0, (step + 1) / warm)
    falling = min(1.0, (total - step) / max(1, total * decay_share))
    return max(0.01, min(rising, falling))
