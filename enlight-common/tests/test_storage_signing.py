"""Signed URLs: ours by what they open, for real and in time; the clouds' by their parameters."""

from __future__ import annotations

import json
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from enlight_common.errors import Forbidden, InvalidField, SigningUnavailable
from enlight_common.storage import UrlSigner, open_object_store
from storage_backends import BUCKET, LIMITS, Backend
from storage_issuer import BASE_PATH, SECRET

pytest_plugins = ("storage_servers",)

NOW = 1_800_000_000.0


def parts_of(url: str) -> tuple[str, str, str]:
    """Path, expiry and signature."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    return parts.path, query["expires"][0], query["signature"][0]


@pytest.fixture
def signer() -> UrlSigner:
    return UrlSigner(SECRET, "https://main.example/store/")


def test_what_was_signed_is_valid_until_it_expires(signer: UrlSigner):
    path, expires, signature = parts_of(signer.sign("GET", "a/b", 60, now=NOW))
    assert path == "/store/bytes/a/b"
    signer.verify("GET", "a/b", expires, signature, now=NOW)
    signer.verify("GET", "a/b", expires, signature, now=NOW + 59.9)
    with pytest.raises(Forbidden):
        signer.verify("GET", "a/b", expires, signature, now=NOW + 60)


def test_nothing_else_is_valid(signer: UrlSigner):
    _, expires, signature = parts_of(signer.sign("GET", "a/b", 60, now=NOW))
    flipped = ("0" if signature[0] != "0" else "1") + signature[1:]
    for method, key, until, signed in [
        ("PUT", "a/b", expires, signature),
        ("get", "a/b", expires, signature),
        ("GET", "a/c", expires, signature),
        ("GET", "a", expires, signature),
        ("GET", "a/b", str(int(expires) + 1), signature),
        ("GET", "a/b", "", signature),
        ("GET", "a/b", "-1", signature),
        ("GET", "a/b", "9" * 5000, signature),
        ("GET", "a/b", "٣", signature),
        ("GET", "a/b", expires, flipped),
        ("GET", "a/b", expires, ""),
        ("GET", "a/b", expires, "é\udc80"),
        ("GET", f"a/b\n{expires}", expires, signature),
    ]:
        with pytest.raises(Forbidden):
            signer.verify(method, key, until, signed, now=NOW)


def test_another_secret_signs_otherwise(signer: UrlSigner):
    _, expires, signature = parts_of(UrlSigner(b"x" * 32, signer.base_url).sign("GET", "a/b", 60, now=NOW))
    with pytest.raises(Forbidden):
        signer.verify("GET", "a/b", expires, signature, now=NOW)


def test_short_secrets_and_odd_bases_are_refused():
    with pytest.raises(ValueError, match="32 bytes"):
        UrlSigner(b"x" * 31, "https://main.example")
    for base in ("file:///x", "main.example", "https://", "https://main.example/?a=b"):
        with pytest.raises(ValueError, match="URL"):
            UrlSigner(SECRET, base)


def test_a_folder_without_a_signer_signs_nothing(tmp_path: Path):
    with pytest.raises(SigningUnavailable):
        open_object_store(f"file://{tmp_path}").signed_url("a", "GET", 60)


@pytest.fixture
def served(granted: Backend) -> UrlSigner:
    """The signer of the served issuer."""
    return UrlSigner(SECRET, granted.url + BASE_PATH)


def test_a_signed_url_of_a_folder_puts_and_gets_over_http(served: UrlSigner):
    put = served.sign("PUT", "signing/a", 60)
    assert httpx.put(put, content=b"0123456789").status_code == 204
    answer = httpx.get(served.sign("GET", "signing/a", 60))
    assert answer.status_code == 200
    assert answer.content == b"0123456789"


def test_a_url_that_is_not_valid_is_a_403_that_says_nothing_more(served: UrlSigner):
    httpx.put(served.sign("PUT", "signing/b", 60), content=b"x")
    url = served.sign("GET", "signing/b", 60)
    path, expires, signature = parts_of(url)
    base = url.split("/internal")[0]
    altered = [
        served.sign("GET", "signing/b", 1, now=time.time() - 2),
        served.sign("PUT", "signing/b", 60),
        f"{base}{path}c?expires={expires}&signature={signature}",
        f"{base}{path}?expires={int(expires) + 60}&signature={signature}",
        f"{base}{path}?expires={expires}&signature={signature[:-1]}{'0' if signature[-1] != '0' else '1'}",
        f"{base}{path}?expires={expires}",
        f"{base}{path}?signature={signature}",
        f"{base}{path}",
    ]
    answers = [httpx.get(each) for each in altered]
    assert [answer.status_code for answer in answers] == [403] * len(altered)
    assert {answer.json()["detail"] for answer in answers} == {"the signed URL is not valid, or no longer"}
    assert answers[0].headers["content-type"] == "application/problem+json"
    assert httpx.put(url, content=b"y").status_code == 403
    assert httpx.get(url).content == b"x"


def test_a_url_stops_working_when_its_time_has_come(served: UrlSigner):
    httpx.put(served.sign("PUT", "signing/c", 60), content=b"x")
    url = served.sign("GET", "signing/c", 3)
    assert httpx.get(url).status_code == 200
    time.sleep(3.1)
    assert httpx.get(url).status_code == 403


@pytest.fixture
def service_account(tmp_path: Path) -> Path:
    """A key that opens nothing."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path / "account.json"
    account = {
        "type": "service_account",
        "project_id": "enlight-tests",
        "private_key_id": "0",
        "private_key": pem.decode(),
        "client_email": "tests@enlight-tests.iam.gserviceaccount.com",
        "client_id": "0",
        "token_uri": "https://oauth2.example/token",
    }
    path.write_text(json.dumps(account))
    return path


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_google_urls_are_signed_by_the_service_account(
    service_account: Path, monkeypatch: pytest.MonkeyPatch, method: str
):
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(service_account))
    url = urlsplit(open_object_store("gs://bucket/pre/fix").signed_url("a/b", method, 600))
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    assert (url.scheme, url.netloc, url.path) == ("https", "storage.googleapis.com", "/bucket/pre/fix/a/b")
    assert query["X-Goog-Algorithm"] == "GOOG4-RSA-SHA256"
    assert query["X-Goog-Expires"] == "600"
    assert query["X-Goog-SignedHeaders"] == "host"
    assert query["X-Goog-Credential"].startswith("tests@enlight-tests.iam.gserviceaccount.com/")
    assert len(query["X-Goog-Signature"]) == 512


def test_the_google_emulator_has_no_key_to_sign_with(google: Backend):
    with pytest.raises(SigningUnavailable):
        google.open(LIMITS, google.url).signed_url("a", "GET", 60)


@pytest.mark.parametrize(("method", "seconds"), [("GET", 1), ("PUT", 604800)])
def test_amazon_urls_are_signed_by_the_access_key(monkeypatch: pytest.MonkeyPatch, method: str, seconds: int):
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATESTS")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    url = urlsplit(open_object_store("s3://bucket/pre/fix").signed_url("a/b", method, seconds))
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    assert url.scheme == "https"
    assert url.netloc == "bucket.s3.eu-west-1.amazonaws.com"
    assert url.path == "/pre/fix/a/b"
    assert query["X-Amz-Algorithm"] == "AWS4-HMAC-SHA256"
    assert query["X-Amz-Expires"] == str(seconds)
    # Whoever puts need send nothing but the bytes.
    assert query["X-Amz-SignedHeaders"] == "host"
    assert query["X-Amz-Credential"].startswith("AKIATESTS/")


def test_amazon_urls_at_another_endpoint_have_the_bucket_in_the_path_and_work(amazon: Backend):
    store = amazon.open(LIMITS, amazon.url)
    put = store.signed_url("signing/a", "PUT", 60)
    assert urlsplit(put).path == f"/{BUCKET}/some/where/signing/a"
    assert httpx.put(put, content=b"bytes").status_code == 200
    assert store.read("signing/a", 100) == b"bytes"
    assert httpx.get(store.signed_url("signing/a", "GET", 60)).content == b"bytes"


def test_without_an_access_key_amazon_signs_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(SigningUnavailable):
        open_object_store("s3://bucket").signed_url("a", "GET", 60)


SECRET_URLS = [
    "",
    "ftp://host/x",
    "gs://",
    "s3:///x",
    "enlight+https:///x",
    "enlight+ftp://host/x",
    "file://",
    "file://host/x",
    "gs://bucket/a/../b",
    "s3://key:hunter2@bucket",
    "enlight+https://user:hunter2@host/x",
    "https://host/x?token=hunter2",
]


@pytest.mark.parametrize("url", SECRET_URLS)
def test_an_address_that_is_none_is_refused_and_not_repeated(url: str):
    with pytest.raises(InvalidField) as caught:
        open_object_store(url, node_key="k", field="MODEL_STORE_URL")
    assert caught.value.field == "MODEL_STORE_URL"
    assert "hunter2" not in caught.value.detail
