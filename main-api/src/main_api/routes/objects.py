"""The bytes behind signed URLs where stores are folders, and the model store as GPU machines see it."""

from __future__ import annotations

from enlight_common.storage import FolderStore
from enlight_common.web.objects import objects_blueprint, signed_bytes_blueprint
from flask import Flask

from main_api.routes.authorization import authorize_node
from main_api.routes.context import Context
from main_api.storage import DOWNLOADS_PATH, NODE_PREFIXES, NODE_STORE_PATH, OBJECTS_PATH

_MAX_MODEL_BYTES = 64 * 1024**3


def register_objects(app: Flask, here: Context) -> None:
    """Pictures at OBJECTS_PATH, models to download at DOWNLOADS_PATH, and NODE_STORE_PATH.

    What GPU machines send and fetch there has a deadline, and is not counted: they are no strangers.
    """
    service = here.service
    pictures, models = service.pictures, service.models
    if isinstance(pictures.store, FolderStore):
        routes = signed_bytes_blueprint(
            pictures.store,
            pictures.signer,
            max_object_bytes=service.settings.max_upload_bytes,
            name="pictures",
            gate=here.transfers,
            receive=service.receiver.put,
        )
        app.register_blueprint(routes, url_prefix=OBJECTS_PATH)
    if isinstance(models.store, FolderStore):
        routes = signed_bytes_blueprint(
            models.store,
            models.client_signer,
            max_object_bytes=0,
            name="downloads",
            gate=here.transfers,
        )
        app.register_blueprint(routes, url_prefix=DOWNLOADS_PATH)
    app.register_blueprint(
        objects_blueprint(
            models.store,
            models.signer,
            authorize_node,
            url_expires_s=service.settings.url_expires_s,
            max_object_bytes=_MAX_MODEL_BYTES,
            name="node_store",
            prefixes=NODE_PREFIXES,
        ),
        url_prefix=NODE_STORE_PATH,
    )
