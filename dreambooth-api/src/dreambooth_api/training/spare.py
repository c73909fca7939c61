"""A trainer's process that is ready before its job comes: torch and diffusers take seconds to import."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Mapping
from typing import Literal

from enlight_common import openmp
from enlight_common.memory import available_bytes

from dreambooth_api.training.orders import SharingPolicy
from dreambooth_api.training.process import TrainerProcess
from dreambooth_api.training.workspace import Workspace

SpareWanted = Literal["auto", "on", "off"]

#: A spare is 0.5 to 0.8 GB, of which libraries that the service has loaded too are half.
_CHEAP_BYTES = 4 * 10**9

_log = logging.getLogger(__name__)


class Trainers:
    """Where a run's process comes from: the spare one, or else a new one.

    The spare one has imported what a training needs and waits. It holds no model and nothing of a GPU. What
    ends it, be it the kernel for want of memory, costs the next run some seconds and nothing else.
    """

    def __init__(self, environment: Mapping[str, str], spare: SpareWanted) -> None:
        """`environment` is added to this process's own; `spare` is "auto" for where memory is plenty."""
        self._added, self._wanted = dict(environment), spare
        self._lock = threading.Lock()
        self._spare: TrainerProcess | None = None
        self._closed = False

    @property
    def spare_pid(self) -> int | None:
        """The spare process, alive or not."""
        spare = self._spare
        return None if spare is None else spare.pid

    def keep_spare(self) -> None:
        """Have a spare process, where one is wanted, from now on until the next run takes it."""
        if self._wanted == "off" or (self._wanted == "auto" and available_bytes() < _CHEAP_BYTES):
            return
        with self._lock:
            if self._closed or self._spare is not None:
                return
            try:
                self._spare = TrainerProcess(self._environment())
            except OSError as error:
                _log.warning("no spare training process could be started: %s", error)

    def begin(self, workspace: Workspace, policy: SharingPolicy) -> TrainerProcess:
        """A process that does the workspace's job. Raises OSError."""
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is not None:
            # One that was started in another environment would read other models, say.
            if spare.environment == self._environment():
                with contextlib.suppress(OSError):  # it has died meanwhile
                    spare.begin(workspace, policy)
                    return spare
            spare.discard()
        process = TrainerProcess(self._environment())
        try:
            process.begin(workspace, policy)
        except BaseException:
            process.discard()
            raise
        return process

    def _environment(self) -> dict[str, str]:
        return {**openmp.WAITING, **os.environ, **self._added}

    def close(self) -> None:
        """Keep no spare any more. Runs go on."""
        with self._lock:
            self._closed = True
            spare, self._spare = self._spare, None
        if spare is not None:
            spare.discard()
