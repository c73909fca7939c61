"""The end of a run that was somebody's job, kept in its workspace until it is settled who has the model.

Whoever asked may die before telling anybody. Asked for the same job again, any instance of this machine
answers with that end instead of training once more. The model is then the later asker's: the first, should it
wake up and find its job lost, deletes nothing.
"""

from __future__ import annotations

from enlight_common.files import write_atomically
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dreambooth_api.training.run_state import RunState
from dreambooth_api.training.workspace import Workspace

_NAME = "answer.json"


class Answer(BaseModel):
    """`state` is the last one of the run that has the model, `job` whose end it is."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = Field(1, ge=1)
    job: str
    state: RunState

    @classmethod
    def in_workspace(cls, workspace: Workspace) -> Answer | None:
        try:
            return cls.model_validate_json((workspace.folder / _NAME).read_bytes())
        except (OSError, ValidationError):
            return None

    def keep(self, workspace: Workspace) -> None:
        """In a workspace whose lock is held. Raises OSError, StorageFull."""
        write_atomically(workspace.folder / _NAME, self.model_dump_json())
