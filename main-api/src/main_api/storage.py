"""Pictures and photos, and the models that workers store: keys, URLs, and what is checked of an object."""

from __future__ import annotations

import hmac

from enlight_common.errors import InvalidField
from enlight_common.storage import ObjectStore, UrlSigner, open_object_store, put_bytes

from main_api.settings import MainApiSettings

OBJECTS_PATH = "/objects"
DOWNLOADS_PATH = "/downloads"
NODE_STORE_PATH = "/internal/v1/store"
#: What a node may touch of the model store.
NODE_PREFIXES = ("models/", "checkpoints/")
SUFFIXES = {"png": "png", "jpeg": "jpg", "webp": "webp"}


class PictureStore:
    """The picture store, with URLs as clients reach it and as GPU machines do."""

    def __init__(self, settings: MainApiSettings) -> None:
        secret = _secret(settings, "pictures")
        self.signer = UrlSigner(secret, settings.public_url.rstrip("/") + OBJECTS_PATH)
        workers = UrlSigner(secret, settings.workers_url + OBJECTS_PATH)
        self.store = _open(settings.image_store, self.signer, "IMAGE_STORE_URL")
        self._for_workers = _open(settings.image_store, workers, "IMAGE_STORE_URL")
        self._expires_s = settings.url_expires_s

    def put(self, key: str, data: bytes) -> None:
        put_bytes(self.store, key, data)

    def read(self, key: str, max_bytes: int) -> bytes:
        return self.store.read(key, max_bytes)

    def url(self, key: str) -> str:
        """For a client to GET it."""
        return self.store.signed_url(key, "GET", self._expires_s)

    def upload_url(self, key: str) -> str:
        """For a client to PUT it."""
        return self.store.signed_url(key, "PUT", self._expires_s)

    def worker_url(self, key: str) -> str:
        """For a worker to GET it."""
        return self._for_workers.signed_url(key, "GET", self._expires_s)

    def worker_upload_url(self, key: str) -> str:
        """For a worker to PUT it."""
        return self._for_workers.signed_url(key, "PUT", self._expires_s)

    def check(self, key: str, size: int, field: str) -> None:
        """Raise InvalidField unless there is an object of `size` bytes."""
        found = self.store.stat(key)
        if found is None:
            raise InvalidField(field, "has not been stored")
        if found.size != size:
            raise InvalidField(field, "is stored with another size")


class ModelStore:
    """The model store: `store` signs for GPU machines, `url` for clients that download a model."""

    def __init__(self, settings: MainApiSettings) -> None:
        # Each kind of URL has a secret of its own: what one allows, the others do not.
        self.signer = UrlSigner(_secret(settings, "nodes"), settings.workers_url + NODE_STORE_PATH)
        self.client_signer = UrlSigner(
            _secret(settings, "downloads"), settings.public_url.rstrip("/") + DOWNLOADS_PATH
        )
        self.store = _open(settings.model_store, self.signer, "MODEL_STORE_URL")
        self._for_clients = _open(settings.model_store, self.client_signer, "MODEL_STORE_URL")
        self._expires_s = settings.url_expires_s

    def url(self, key: str) -> str:
        """For a client to GET it."""
        return self._for_clients.signed_url(key, "GET", self._expires_s)


def picture_key(tenant: str, job_id: str, fencing: int, index: int, suffix: str) -> str:
    """No two claims of a job share keys, so that a late writer spoils nothing."""
    return f"pictures/{tenant}/{job_id}/{fencing}/{index}.{suffix}"


def input_key(tenant: str, job_id: str, name: str) -> str:
    return f"inputs/{tenant}/{job_id}/{name}"


def upload_key(tenant: str, upload_id: str) -> str:
    return f"uploads/{tenant}/{upload_id}"


def photo_key(tenant: str, set_id: str, index: int) -> str:
    return f"photo-sets/{tenant}/{set_id}/{index}"


def _secret(settings: MainApiSettings, purpose: str) -> bytes:
    return hmac.digest(settings.secret, f"enlight urls: {purpose}".encode(), "sha256")


def _open(url: str, signer: UrlSigner, field: str) -> ObjectStore:
    return open_object_store(url, signer=signer, field=field)
