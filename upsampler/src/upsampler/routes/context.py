"""What a view needs beside its request: the service, and the places for requests that take long."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from enlight_common.patience import Turns
from enlight_common.web import LongLived
from flask import Flask, current_app

from upsampler.service import Service

_EXTENSION = "upsampler"


@dataclass
class Context:
    """The service and its bounded places, which are half of the threads."""

    service: Service
    places: LongLived = field(init=False)
    #: Taken while a picture is decoded, which takes some 100 MB.
    decoding: Turns = field(default_factory=lambda: Turns(1))

    def __post_init__(self) -> None:
        self.places = LongLived(self.service.settings.threads // 2)

    def attach(self, app: Flask) -> None:
        """Make this the context of *app*'s requests."""
        app.extensions[_EXTENSION] = self


def context() -> Context:
    """The context of the current request's app."""
    return cast(Context, current_app.extensions[_EXTENSION])
