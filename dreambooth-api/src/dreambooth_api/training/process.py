"""The service's handle on a trainer's process: start it, listen to it, stop it, leave nothing of it."""

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

from dreambooth_api import openmp
from dreambooth_api.training.messages import MAX_LINE_BYTES, Failed, Message, NotAMessage, Outcome, from_json
from dreambooth_api.training.workspace import Workspace

_STOP = b"stop\n"
_SILENCE_S = 3600.0  # a step takes minutes at most; the download of a base model may take longer
_STALLED = "the training process was silent for an hour, and was killed"
_LEAVE_S = 10.0  # after its last word the child has this long to end


class TrainerProcess:
    """A child in a session of its own, which ends when this process does: its standard input closes then."""

    def __init__(self, workspace: Workspace, environment: Mapping[str, str]) -> None:
        assert workspace.lock is not None
        with workspace.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dreambooth_api.training.child", str(workspace.folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                # The child keeps the workspace locked should this process die before it.
                pass_fds=(workspace.lock.descriptor,),
                env={**openmp.WAITING, **os.environ, **environment},
            )
        self._gone = threading.Event()
        self._stalled = False
        self._killing = threading.Lock()

    @property
    def pid(self) -> int:
        return self._process.pid

    def messages(self) -> Iterator[Message]:
        """What the child tells until it is gone, an outcome last: if it died without one, a Failed that says
        how.
        """
        for line in self._lines():
            with contextlib.suppress(NotAMessage):
                message = from_json(line)
                if isinstance(message, Outcome):
                    self._reap()
                    yield message
                    return  # what may follow is only its end
                yield message
        status = self._reap()
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
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(_STOP)
            self._process.stdin.flush()

    def kill(self) -> None:
        """End it, and whatever it started, at once. Harmless when it has ended."""
        with self._killing, contextlib.suppress(ProcessLookupError):
            if not self._gone.is_set():  # until it is reaped, its number belongs to nobody else
                os.killpg(self._process.pid, signal.SIGKILL)

    def _reap(self) -> int:
        _await_end(self._process.pid, _LEAVE_S)
        with self._killing:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # it, if it hangs, and anything it left behind
            self._gone.set()
            status = self._process.wait()
        _close(self._process.stdin)
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
