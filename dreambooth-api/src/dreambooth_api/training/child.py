"""The trainer's process: `python -m dreambooth_api.training.child <work folder>`.

Messages go out as JSON lines on what was standard output; `stop` comes in on standard input. When that
closes, the service is gone and so is this process, whatever it is doing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from pathlib import Path
from typing import BinaryIO

from enlight_common.errors import EnlightError, StorageFull, UnsupportedBaseModel

from dreambooth_api.training.messages import Failed, Message, Outcome, Preparing, Stopped, to_json
from dreambooth_api.training.workspace import Workspace

STOP = b"stop\n"
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
    """Listens on standard input. Before the first step there is nothing to save, and a stop means at once."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._asked = threading.Event()
        self._stepping = False
        self._lock = threading.Lock()
        threading.Thread(target=self._listen, name="control", daemon=True).start()

    def stopping(self) -> bool:
        with self._lock:
            self._stepping = True
        return self._asked.is_set()

    def _listen(self) -> None:
        for line in sys.stdin.buffer:
            if line != STOP:
                continue
            self._asked.set()
            with self._lock:
                if not self._stepping:
                    self._channel.send(Stopped(0))
                    os._exit(0)
        os._exit(_ORPHANED)


def main() -> None:
    channel = Channel()
    control = Control(channel)
    _give_way()
    channel.send(Preparing("starting"))
    outcome = _run(Workspace(Path(sys.argv[1])), channel, control)
    with contextlib.suppress(BrokenPipeError):
        channel.send(outcome)
    # Without Python's and CUDA's tidying up, which can hang, and has nothing to tidy.
    sys.stderr.flush()
    os._exit(0 if not isinstance(outcome, Failed) else 1)


def _run(workspace: Workspace, channel: Channel, control: Control) -> Outcome:
    try:
        import torch

        from dreambooth_api.training.loop import Diverged, train
    except MemoryError:
        return Failed("out-of-memory", "there was not enough memory to start the training")
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
