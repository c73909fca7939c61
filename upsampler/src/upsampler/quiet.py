"""Keeps the libraries' progress bars and warnings out of the service's log, which is JSON by the line."""

from __future__ import annotations

import diffusers
import transformers


def quieten_libraries() -> None:
    """Only errors from here on: among the warnings are clients' prompts, cut to the text encoder's length."""
    for library in (diffusers.logging, transformers.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
