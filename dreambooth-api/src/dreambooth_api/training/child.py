"""The trainer's process: `python -m dreambooth_api.training.child`, with a socket for its standard input.

`orders` come in on that, the job first; messages go out as JSON lines on what was standard output. It
imports what a training needs without waiting for the job, so that it can be started long before. When the
socket ends, the service is gone and so is this process, whatever it is doing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import threading
from pathlib import Path
from typing import BinaryIO

from enlight_common.errors import EnlightError, StorageFull, UnsupportedBaseModel

from dreambooth_api.training.messages import Failed, Message, Outcome, Preparing, Stopped, to_json
from dreambooth_api.training.orders import Begin, Pictures, Received, Stop, receive
from dreambooth_api.training.turns import Turns
from dreambooth_api.training.workspace import Workspace

_ORPHANED = 3  # exit status
_MAX_DETAIL = 500  # characters


class Channel:
    """The way back to the service: a private copy of standard output, so that a library's print cannot
    garble it.
    """

    def __init__(self) -> None:
        self._file: BinaryIO = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def send(self, message: Message) -> None:
        with self._lock:
            self._file.write(to_json(message).encode() + b"\n")


class Control:
    """Listens to the service. Before the first step there is nothing to save, and a stop means at once."""

    def __init__(self, service: socket.socket, channel: Channel) -> None:
        self._service, self._channel = service, channel
        self._begun = threading.Event()
        self._begin: Begin | None = None
        self._turns = Turns("training-first")
        self._lock = threading.Lock()
        self._stepping = False
        self._asked = False
        threading.Thread(target=self._listen, name="control", daemon=True).start()

    def await_job(self) -> Workspace:
        """The workspace of the job to do."""
        self._begun.wait()
        assert self._begin is not None
        return Workspace(Path(self._begin.folder))

    def stopping(self) -> bool:
        """Between steps: whether to stop, after waiting for the next step's turn."""
        with self._lock:
            self._stepping = True
        self._turns.await_step()
        return self._asked

    def _listen(self) -> None:
        try:
            while (received := receive(self._service)) is not None:
                match received.order:
                    case Begin():
                        self._take_job(received, received.order)
                    case Pictures(waiting):
                        self._turns.pictures(waiting)
                    case Stop():
                        self._stop()
        finally:
            os._exit(_ORPHANED)  # nobody could stop it any more

    def _take_job(self, received: Received, begin: Begin) -> None:
        # The workspace's lock is held for as long as this process has the first file open.
        _lock, log = received.descriptors
        for number in (1, 2):
            os.dup2(log, number)
        os.close(log)
        self._channel.send(Preparing("starting"))
        self._begin, self._turns = begin, Turns(begin.policy)
        self._begun.set()

    def _stop(self) -> None:
        self._asked = True
        self._turns.leave()
        with self._lock:
            if not self._stepping:
                self._channel.send(Stopped(0))
                os._exit(0)


def main() -> None:
    channel = Channel()
    control = Control(socket.socket(fileno=0), channel)
    _give_way()
    outcome = _run(channel, control)
    with contextlib.suppress(BrokenPipeError):
        channel.send(outcome)
    # Without Python's and CUDA's tidying up, which can hang, and has nothing to tidy.
    sys.stderr.flush()
    os._exit(0 if not isinstance(outcome, Failed) else 1)


def _run(channel: Channel, control: Control) -> Outcome:
    try:
        import torch

        from dreambooth_api.training import warm
        from dreambooth_api.training.loop import Diverged, train

        warm.up()
    except MemoryError:
        return Failed("out-of-memory", "there was not enough memory to start the training")
    workspace = control.await_job()
    try:
        return train(workspace, channel.send, control.stopping)
    except Diverged as error:
        return Failed("diverged", str(error))
    except (MemoryError, torch.OutOfMemoryError):
        return _out_of_memory()
    except UnsupportedBaseModel as error:
        return Failed("base-model", error.detail)
    except StorageFull as error:
        return Failed("storage-full", error.detail)
    except Exception as error:
        _print_traceback()
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return Failed("storage-full", "there is no room left on the disk")
        if "can't allocate memory" in str(error):  # the CPU allocator's RuntimeError
            return _out_of_memory()
        detail = error.detail if isinstance(error, EnlightError) else str(error)
        return Failed("crash", f"{type(error).__name__}: {detail}"[:_MAX_DETAIL])


def _out_of_memory() -> Failed:
    return Failed(
        "out-of-memory",
        "there was not enough memory: a smaller batch or resolution, or gradient checkpointing, needs less",
    )


def _print_traceback() -> None:
    import traceback

    traceback.print_exc()


def _give_way() -> None:
    """The service answers before this computes, and when memory is short the kernel takes this process."""
    with contextlib.suppress(OSError):
        os.nice(5)
        Path("/proc/self/oom_score_adj").write_text("500")


if __name__ == "__main__":
    main()
