"""What a view needs beside its request: the service, and the places for requests that take long."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from enlight_common.web import LongLived, watch_client
from flask import Flask, current_app

from upsampler.service import Service

_EXTENSION = "upsampler"


@dataclass
class Context:
    """The service and its bounded places, which are half of the threads."""

    service: Service
    places: LongLived = field(init=False)
    #: Held while a picture is decoded, which takes some 100 MB.
    decoding: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.places = LongLived(self.service.settings.threads // 2)

    def attach(self, app: Flask) -> None:
        """Make this the context of *app*'s requests."""
        app.extensions[_EXTENSION] = self


def context() -> Context:
    """The context of the current request's app."""
    return cast(Context, current_app.extensions[_EXTENSION])


def watch_work() -> Callable[[], bool]:
    """Whether the request's work should stop: its client is gone, or the service's grace time is over."""
    gone, service = watch_client(), context().service
    return lambda: service.stopping or gone()
