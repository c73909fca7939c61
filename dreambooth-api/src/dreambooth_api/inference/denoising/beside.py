"""The thread that computes beside the steps: texts and images in, pictures out."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import torch
from enlight_common.errors import ShuttingDown
from enlight_common.leaving import WORDS

log = logging.getLogger(__name__)

Work = Callable[[], None]
Answer = TypeVar("Answer")


class SideThread:
    """Does one piece of work at a time; what a new picture waits for comes before what a done one does, and
    what nobody waits for comes last.

    One thread and not one for each request, because OpenMP keeps a pool of threads for every thread that
    computes. On CUDA its work is in a stream of its own, and over on the device when it is over here.
    """

    def __init__(self, device: str) -> None:
        self._urgent: deque[Work] = deque()
        self._later: deque[Work] = deque()
        self._last: deque[Work] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._device = torch.device(device)
        self._thread = threading.Thread(target=self._work_forever, name="beside the steps", daemon=True)
        self._thread.start()

    def urgently(self, work: Work) -> None:
        """Do *work* before everything that may wait. It must not raise."""
        self._put(self._urgent, work)

    def ask(self, question: Callable[[], Answer]) -> Answer:
        """Do it before everything that may wait, and give or raise what it does.

        Not for a caller's own thread: it waits as long as that takes. Raises ShuttingDown after ``close``.
        """
        answer: Future[Answer] = Future()

        def work() -> None:
            try:
                found = question()
                self.synchronize()
                answer.set_result(found)
            except BaseException as error:
                answer.set_exception(error)

        with self._changed:
            if self._closing:
                raise ShuttingDown(WORDS)
            self._urgent.append(work)
            self._changed.notify()
        return answer.result()

    def synchronize(self) -> None:
        """To be called by work that hands on what it made: only then is that there for other streams."""
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()

    def later(self, work: Work) -> None:
        """Do *work* when nothing urgent is left. It must not raise."""
        self._put(self._later, work)

    def last(self, work: Work) -> None:
        """Do *work* when nothing else is left. It must not raise."""
        self._put(self._last, work)

    def close(self, deadline: float) -> None:
        """End when everything is done; wait for that until *deadline* of ``time.monotonic``."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(max(0.0, deadline - time.monotonic()))

    def _put(self, queue: deque[Work], work: Work) -> None:
        with self._changed:
            queue.append(work)
            self._changed.notify()

    def _work_forever(self) -> None:
        stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        while (work := self._next()) is not None:
            try:
                if stream is None:
                    work()
                else:
                    with torch.cuda.stream(stream):
                        work()
                    stream.synchronize()
            except Exception:
                log.exception("work beside the steps failed")
            del work  # with the images that it holds

    def _next(self) -> Work | None:
        with self._changed:
            while not (self._urgent or self._later or self._last or self._closing):
                self._changed.wait()
            queue = self._urgent or self._later or self._last
            return queue.popleft() if queue else None
