"""The service's handle on a trainer's process: start it, give it a job, listen to it, leave nothing of it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import IO

from dreambooth_api.training import orders
from dreambooth_api.training.messages import MAX_LINE_BYTES, Failed, Message, NotAMessage, Outcome, from_json
from dreambooth_api.training.orders import Begin, Order, Pictures, SharingPolicy, Stop
from dreambooth_api.training.workspace import Workspace

_SILENCE_S = 3600.0  # a step takes minutes at most; the download of a base model may take longer
_STALLED = "the training process was silent for an hour, and was killed"
_LEAVE_S = 10.0  # after its last word the child has this long to end


class TrainerProcess:
    """A child in a session of its own, which ends when this process does: the socket to it closes then.

    It gets ready for a job, and waits for `begin`.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Raises OSError."""
        self.environment = dict(environment)
        self._orders, theirs = orders.socket_pair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dreambooth_api.training.child"],
                stdin=theirs.fileno(),
                stdout=subprocess.PIPE,
                start_new_session=True,
                env=self.environment,
            )
        self._gone = threading.Event()
        self._stalled = False
        self._ending = threading.Lock()

    @property
    def pid(self) -> int:
        return self._process.pid

    def begin(self, workspace: Workspace, policy: SharingPolicy) -> None:
        """Have it do the workspace's job. Raises OSError when it is not there any more."""
        assert workspace.lock is not None
        with workspace.log.open("wb") as log:
            # The child keeps the workspace locked should this process die before it.
            files = (workspace.lock.descriptor, log.fileno())
            orders.send(self._orders, Begin(str(workspace.folder), policy), files)

    def messages(self) -> Iterator[Message]:
        """What the child tells until it is gone, an outcome last: if it died without one, a Failed that says
        how.
        """
        for line in self._lines():
            with contextlib.suppress(NotAMessage):
                message = from_json(line)
                if isinstance(message, Outcome):
                    self._reap(_LEAVE_S)
                    yield message
                    return  # what may follow is only its end
                yield message
        status = self._reap(_LEAVE_S)
        yield Failed("killed", _STALLED if self._stalled else _cause_of_death(status))

    def _lines(self) -> Iterator[bytes]:
        """Standard output, line by line; a child that is silent for too long is killed."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        rest = b""
        while True:
            if not poll.poll(_SILENCE_S * 1000):
                self._stalled = True
                self.kill()
            chunk = os.read(descriptor, 65_536)
            if not chunk:
                return
            *lines, rest = (rest + chunk).split(b"\n")
            rest = rest[-MAX_LINE_BYTES:]
            yield from lines

    def ask_to_stop(self) -> None:
        """Have it save a checkpoint after its present step, and leave."""
        self._tell(Stop())

    def pictures_waiting(self, waiting: bool) -> None:
        """Let it know whether pictures are wanted of its device."""
        self._tell(Pictures(waiting))

    def _tell(self, order: Order) -> None:
        with contextlib.suppress(OSError):  # it is gone, or hangs and will be killed
            orders.send(self._orders, order)

    def kill(self) -> None:
        """End it, and whatever it started, at once. Harmless when it has ended."""
        with self._ending, contextlib.suppress(ProcessLookupError):
            if not self._gone.is_set():  # until it is reaped, its number belongs to nobody else
                os.killpg(self._process.pid, signal.SIGKILL)

    def discard(self) -> None:
        """End one that nobody listens to, and wait until it is gone."""
        self._reap(0.0)

    def _reap(self, leave_s: float) -> int:
        _await_end(self._process.pid, leave_s)
        with self._ending:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # it, if it hangs, and anything it left behind
            self._gone.set()
            status = self._process.wait()
        self._orders.close()
        _close(self._process.stdout)
        return status


def _await_end(pid: int, seconds: float) -> None:
    """Wait for a child's end but leave it a zombie, so that its process group can still be named."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.01)


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is not None:
        with contextlib.suppress(OSError):
            pipe.close()


def _cause_of_death(status: int) -> str:
    if status == -signal.SIGKILL:
        return "the training process was killed, as happens when the machine runs out of memory"
    if status < 0:
        return f"the training process ended with {signal.Signals(-status).name}"
    return f"the training process ended with status {status} and without a word"
