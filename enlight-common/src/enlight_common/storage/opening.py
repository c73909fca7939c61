"""From a URL to the store behind it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from enlight_common.errors import InvalidField
from enlight_common.storage.folder import FolderStore
from enlight_common.storage.interface import ObjectStore, StorageLimits, check_prefix
from enlight_common.storage.signing import UrlSigner

_DEFAULT_LIMITS = StorageLimits()


def open_object_store(
    url: str,
    *,
    limits: StorageLimits = _DEFAULT_LIMITS,
    signer: UrlSigner | None = None,
    node_key: str | None = None,
    field: str = "store URL",
) -> ObjectStore:
    """The store at `url`:

        file:///folder, or a plain path      `signer` makes its signed URLs
        gs://bucket[/prefix]                 credentials as Google's libraries find them
        s3://bucket[/prefix]                 credentials, region and endpoint as boto3 finds them
        enlight+https://host/path            every transfer granted by an issuer, asked with `node_key`, else
        enlight+http://host/path             with the ENLIGHT_NODE_KEY of the environment

    Raises InvalidField(`field`) for anything else; it never holds the URL.
    """
    parts = urlsplit(url)
    if parts.query or parts.fragment or parts.username or parts.password:
        raise InvalidField(field, "must be a URL without a query and without a user or password")
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
        return FolderStore(Path(unquote(parts.path)), signer=signer)
    if not parts.scheme and not parts.netloc and url:
        return FolderStore(Path(url), signer=signer)
    # The clouds' libraries take a second to import, so only a store that needs one does.
    if parts.scheme == "gs" and parts.netloc:
        from enlight_common.storage.gcs import GcsStore

        return GcsStore(parts.netloc, _prefix(parts, field), limits=limits)
    if parts.scheme == "s3" and parts.netloc:
        from enlight_common.storage.s3 import S3Store

        return S3Store(parts.netloc, _prefix(parts, field), limits=limits)
    if parts.scheme in ("enlight+https", "enlight+http") and parts.netloc:
        from enlight_common.storage.granted import GrantedStore

        base = parts._replace(scheme=parts.scheme.removeprefix("enlight+")).geturl()
        return GrantedStore(base, node_key=node_key, limits=limits)
    raise InvalidField(field, "must be a file://, gs://, s3:// or enlight+https:// URL")


def _prefix(parts: SplitResult, field: str) -> str:
    """The path of a bucket's URL as the beginning of every key: "" or "a/b/"."""
    prefix = parts.path.strip("/")
    return check_prefix(prefix + "/", field) if prefix else ""
