"""The service behind the current request."""

from __future__ import annotations

from typing import cast

from flask import Flask, current_app

from bgrem.service import Service

_EXTENSION = "bgrem"


def attach(app: Flask, service: Service) -> None:
    """Let *service* be behind *app*'s requests."""
    app.extensions[_EXTENSION] = service


def the_service() -> Service:
    """The service of the current request's app."""
    return cast(Service, current_app.extensions[_EXTENSION])
