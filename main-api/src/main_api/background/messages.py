"""Messages to the background process: which there are, and how they are sent without anyone waiting."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from typing import Literal

from dramatiq import Broker, Message

log = logging.getLogger(__name__)

Actor = Literal["forward", "advance_chain", "notify", "deliver_webhook", "delete_model"]

#: Each kind of work waits in a queue of its own, so that none is behind a heap of another.
QUEUES: dict[Actor, str] = {
    "forward": "forward",
    "advance_chain": "chains",
    "notify": "webhooks",
    "deliver_webhook": "webhooks",
    "delete_model": "deletions",
}
#: Messages that wait to be sent; what is beyond this is left to the sweep.
_MOST_WAITING = 10_000
#: After a failure, what is to be sent is dropped for so long, for the sweep to find it. Seconds.
_PAUSE_S = 2.0
#: A consumer of RabbitMQ holds a delayed message itself, and may do so for 30 minutes. Longer waits are the
#: sweep's, which need not be exact.
MAX_DELAY_MS = 60_000


class Messages:
    """Sends messages from a thread of its own: a broker that is slow or away holds up no request.

    The same message is not sent twice while it waits here.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._waiting: OrderedDict[tuple[Actor, str], int] = OrderedDict()
        self._changed = threading.Condition()
        self._over = False
        self._idle = True
        self._again_at = 0.0
        self._thread: threading.Thread | None = None

    def send(self, actor: Actor, record_id: str, *, delay_ms: int = 0) -> None:
        """Let `actor` look at the record, in `delay_ms` or soon after. Returns at once and never raises."""
        if delay_ms > MAX_DELAY_MS:
            return
        with self._changed:
            if self._over or len(self._waiting) >= _MOST_WAITING:
                return
            self._waiting.setdefault((actor, record_id), delay_ms)
            self._start()
            self._changed.notify_all()

    def stop(self, seconds: float) -> None:
        """Send what waits, for so long at most, and nothing more."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while (self._waiting or not self._idle) and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            self._over = True
            self._changed.notify_all()

    def _start(self) -> None:
        # At first use: a process that forks before would be left without it.
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="messages", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            (actor, record_id), delay_ms = taken
            if time.monotonic() >= self._again_at:
                self._enqueue(actor, record_id, delay_ms)

    def _take(self) -> tuple[tuple[Actor, str], int] | None:
        with self._changed:
            self._idle = True
            self._changed.notify_all()
            while not self._waiting and not self._over:
                self._changed.wait()
            if self._over:
                return None
            self._idle = False
            return self._waiting.popitem(last=False)

    def _enqueue(self, actor: Actor, record_id: str, delay_ms: int) -> None:
        message: Message[None] = Message(
            queue_name=QUEUES[actor], actor_name=actor, args=(record_id,), kwargs={}, options={}
        )
        try:
            self._broker.enqueue(message, delay=delay_ms or None)
        except Exception as error:  # redis-py's, pika's and dramatiq's: the two brokers share no root
            self._again_at = time.monotonic() + _PAUSE_S
            log.warning("the broker cannot be reached: %s", type(error).__name__)
