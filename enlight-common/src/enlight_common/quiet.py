"""Keeps libraries' progress bars and warnings out of a service's log, which is JSON by the line."""

from __future__ import annotations

from typing import Protocol


class Logging(Protocol):
    """The module ``logging`` of diffusers or transformers."""

    def set_verbosity_error(self) -> None: ...

    def disable_progress_bar(self) -> None: ...


def quieten(*libraries: Logging) -> None:
    """Only errors from here on: among the warnings are clients' prompts, cut to the text encoder's length."""
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
