"""Who waits for pictures, and for how long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from enlight_common.errors import TimedOut
from enlight_common.queue import Canceled, Stop

#: How often is looked whether a caller still waits, in seconds.
LOOK_S = 0.25

Answer = TypeVar("Answer")


class Caller:
    """Somebody who waits until the pictures are there, *stop* says yes, or *deadline_s* seconds have passed
    from now on.
    """

    def __init__(self, *, stop: Stop = lambda: False, deadline_s: float | None = None) -> None:
        """*stop* is asked in the threads that draw, too: it should be quick."""
        self._stop = stop
        self._deadline = None if deadline_s is None else time.monotonic() + deadline_s

    def check(self) -> None:
        """Raise where nobody waits any more.

        Raises:
            Canceled: *stop* said yes.
            TimedOut: the deadline passed.
        """
        if self._stop():
            raise Canceled
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise TimedOut("the pictures took longer than allowed")


#: Waits as long as it takes.
PATIENT = Caller()


class Errands:
    """Work that blocks, such as a model's download, done for callers who may leave before it is over.

    It goes on then, for whoever else waits for the same, and its result is thrown away. At most *abandoned*
    go on so: who leaves when there are as many stays in its place until its own work is over, so that
    clients who come and go cannot pile up downloads.
    """

    def __init__(self, abandoned: int) -> None:
        self._free = threading.Semaphore(abandoned)

    def run(
        self,
        work: Callable[[], Answer],
        caller: Caller,
        throw_away: Callable[[Answer], None] = lambda answer: None,
    ) -> Answer:
        """What *work* gives or raises.

        Raises:
            Canceled, TimedOut: as ``Caller.check`` does.
        """
        caller.check()
        answer: Future[Answer] = Future()

        def do() -> None:
            try:
                answer.set_result(work())
            except BaseException as error:
                answer.set_exception(error)

        threading.Thread(target=do, name="errand", daemon=True).start()
        while not wait([answer], LOOK_S).done:
            try:
                caller.check()
            except Exception:
                if self._free.acquire(blocking=False):
                    answer.add_done_callback(lambda done: self._clear_away(done, throw_away))
                    raise
        return answer.result()

    def _clear_away(self, answer: Future[Answer], throw_away: Callable[[Answer], None]) -> None:
        try:
            if answer.exception() is None:
                throw_away(answer.result())
        finally:
            self._free.release()
