"""Whose turn it is on the device, where the batches and the plain pipelines step with the same weights."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Turns:
    """One turn at a time, among parties who want one again and again. Each gets the same share of the time as
    long as it wants it, however long its steps are; who was away gets no more afterwards.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._holder: Party | None = None
        #: In the order in which they came.
        self._waiting: list[Party] = []
        #: The most that any had when it gave the device back: where who comes to an idle device starts.
        self._latest = 0.0

    def party(self) -> Party:
        """One of those who share the device."""
        return Party(self)

    def take(self, party: Party) -> None:
        """See ``Party.take``."""
        with self._changed:
            # Fair queueing: time that nobody wanted is nobody's credit.
            here = [*self._waiting, *([] if self._holder is None else [self._holder])]
            party.served = max(
                party.served, min((self._served(other) for other in here), default=self._latest)
            )
            if self._holder is None:
                self._give(party)
                return
            self._waiting.append(party)
            self._changed.wait_for(lambda: self._holder is party)

    def give_back(self, party: Party) -> None:
        """See ``Party.give_back``."""
        with self._changed:
            party.served = self._served(party)
            self._latest = max(self._latest, party.served)
            self._holder = None
            if self._waiting:
                next_one = min(self._waiting, key=lambda other: other.served)
                self._waiting.remove(next_one)
                self._give(next_one)
                self._changed.notify_all()

    def is_over(self, party: Party) -> bool:
        """See ``Party.over``."""
        with self._changed:
            return any(other.served <= self._served(party) for other in self._waiting)

    def _give(self, party: Party) -> None:
        self._holder, party.since = party, self._clock()

    def _served(self, party: Party) -> float:
        running = self._clock() - party.since if party is self._holder else 0.0
        return party.served + running


class Party:
    """Somebody who takes turns, from one thread."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        #: Seconds, in the turns' own reckoning, up to *since*, when the present turn began.
        self.served = 0.0
        self.since = 0.0

    @property
    def over(self) -> bool:
        """Whether somebody waits who had no more of the device: the turn should end with this step."""
        return self._turns.is_over(self)

    def take(self) -> None:
        """Wait for the turn."""
        self._turns.take(self)

    def give_back(self) -> None:
        """End the turn."""
        self._turns.give_back(self)
