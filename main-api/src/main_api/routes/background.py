"""The messages to the background that the current request's app sends."""

from __future__ import annotations

from typing import cast

from flask import Flask, current_app

from main_api.background.messages import Messages

_EXTENSION = "main-api-messages"


def attach_messages(app: Flask, sent: Messages) -> None:
    """Let *app*'s requests send through *sent*."""
    app.extensions[_EXTENSION] = sent


def messages() -> Messages:
    """The messages of the current request's app."""
    return cast(Messages, current_app.extensions[_EXTENSION])
