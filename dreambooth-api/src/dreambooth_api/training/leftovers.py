"""Runs that whoever was at them left without an end, because it was killed."""

from __future__ import annotations

import contextlib
from pathlib import Path

from enlight_common.errors import Busy, EnlightError

from dreambooth_api.training.publication import Publisher, was_published
from dreambooth_api.training.run_state import RunFiles, RunState
from dreambooth_api.training.workspace import Workspace


class Leftovers:
    """Finds their ends: `work` holds the workspaces, `files` what was last told of them."""

    def __init__(self, work: Path, files: RunFiles, store: Publisher) -> None:
        self._work, self._files, self._store = work, files, store

    def end_all_of(self, instance: str) -> None:
        """Give an end to the runs that an earlier process of this instance was at when it died."""
        for state in self._files.unfinished_of(instance):
            with contextlib.suppress(OSError, EnlightError):  # told again at the next start
                if not self.end_if_left(state).is_terminal:
                    # Its child, or another instance that took the same request up, is still at the workspace.
                    self._files.write(state.interrupted())

    def end_if_left(self, state: RunState) -> RunState:
        """The state, ended where nobody is at the run any more: whoever is holds its workspace's lock."""
        try:
            workspace = Workspace.claim(self._work, state.identity)
        except Busy:
            return state
        try:
            latest = self._files.read(state.run_id)
            if latest.is_terminal:
                return latest
            version = was_published(self._store, workspace, state.tenant, state.model_id)
            ended = state.interrupted() if version is None else state.succeeded(version)
            if version is not None or not workspace.has_job:
                workspace.remove()
            with contextlib.suppress(OSError, EnlightError):
                self._files.write(ended)
            return ended
        finally:
            workspace.release()
