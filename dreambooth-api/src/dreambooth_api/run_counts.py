"""How many training steps were done, over all runs that this process started."""

from __future__ import annotations

import threading
from collections import Counter

from enlight_common.errors import NotFound

from dreambooth_api.training.runs import Trainings


class RunCounts:
    """Reads runs' states when asked, so that the trainings need not know that anybody counts."""

    def __init__(self, trainings: Trainings) -> None:
        self._trainings = trainings
        self._open: set[str] = set()
        self._steps_of_ended = 0
        self._ended: Counter[str] = Counter()
        self._lock = threading.Lock()

    def begin(self, run_id: str) -> None:
        """Count this run from now on; joining one that is counted already changes nothing."""
        with self._lock:
            self._open.add(run_id)

    def read(self) -> tuple[int, dict[str, int]]:
        """Steps done (a resumed run's earlier ones included), and how many runs ended by status."""
        with self._lock:
            steps = 0
            for run_id in list(self._open):
                try:
                    state = self._trainings.get(run_id)
                except NotFound:
                    self._open.discard(run_id)
                    continue
                if state.is_terminal:
                    self._open.discard(run_id)
                    self._steps_of_ended += state.step
                    self._ended[state.status] += 1
                else:
                    steps += state.step
            return self._steps_of_ended + steps, dict(self._ended)
