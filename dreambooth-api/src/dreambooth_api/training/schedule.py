"""The learning rate as a pure function of the step, so that a resumed run needs nothing but its step
number.
"""

from __future__ import annotations

import math

_RESTARTS = 4


def factor(name: str, step: int, total: int, warmup: int) -> float:
    """What the learning rate is multiplied by in `step` (the first is 0) of `total`: between 0 and 1.

    It rises in a line over `warmup` steps; `name` is one of `TrainingOptions.lr_scheduler` and says what
    follows.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, total - warmup)
    match name:
        case "constant":
            return 1.0
        case "linear":
            return 1.0 - done
        case "polynomial":
            return (1.0 - done) ** 2
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * done))
        case "cosine_with_restarts":
            return 0.5 * (1.0 + math.cos(math.pi * ((done * _RESTARTS) % 1.0)))
    raise ValueError(f"no such schedule: {name}")
