"""An issuer over a folder store: what main-api is for machines without credentials of a bucket."""

from __future__ import annotations

import os
from pathlib import Path

from enlight_common.errors import Unauthorized
from enlight_common.storage import UrlSigner, open_object_store
from enlight_common.web import create_app, gunicorn_settings
from enlight_common.web.objects import objects_blueprint
from flask import Flask, request

NODE_KEY = "node-key-of-the-tests"
SECRET = b"the secret of the tests, 32 bytes or more"
BASE_PATH = "/internal/store"
MAX_OBJECT_BYTES = 200_000_000


def issuer_app(root: Path, base_url: str, *, url_expires_s: int = 60) -> Flask:
    """An issuer for the objects in `root`; `base_url` is where its clients reach it, with BASE_PATH."""
    signer = UrlSigner(SECRET, base_url)
    app = create_app(__name__, max_body_bytes=100_000, ready=lambda: True)

    def authorize() -> None:
        if request.headers.get("Authorization") != f"Bearer {NODE_KEY}":
            raise Unauthorized("a node key is required")

    store = open_object_store(f"file://{root}", signer=signer)
    app.register_blueprint(
        objects_blueprint(
            store, signer, authorize, url_expires_s=url_expires_s, max_object_bytes=MAX_OBJECT_BYTES
        ),
        url_prefix=BASE_PATH,
    )
    return app


def served_app() -> Flask:
    """For gunicorn: what to serve is in the environment."""
    return issuer_app(Path(os.environ["ISSUER_ROOT"]), os.environ["ISSUER_URL"])


if "ISSUER_PORT" in os.environ:
    globals().update(
        gunicorn_settings(
            host="127.0.0.1",
            port=int(os.environ["ISSUER_PORT"]),
            threads=8,
            grace_s=2,
            name="issuer",
            stall_s=5,
            log_level="WARNING",
        )
    )
