"""The service behind the current request."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from enlight_common.web import watch_client
from flask import Flask, current_app

from bgrem.service import Service

_EXTENSION = "bgrem"


def attach(app: Flask, service: Service) -> None:
    """Let *service* be behind *app*'s requests."""
    app.extensions[_EXTENSION] = service


def the_service() -> Service:
    """The service of the current request's app."""
    return cast(Service, current_app.extensions[_EXTENSION])


def watch_work() -> Callable[[], bool]:
    """Whether the request's work should stop: its client is gone, or the service's grace time is over."""
    gone, service = watch_client(), the_service()
    return lambda: service.stopping or gone()
