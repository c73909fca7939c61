"""A server over TLS that answers one request, once it is let."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

WITHIN_S = 60
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"


class SlowServer:
    """Answers one request over TLS, once it is let."""

    def __init__(self, certificate: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._context = context
        self.url = f"https://127.0.0.1:{self._listening.getsockname()[1]}"
        self.asked, self.may_answer = threading.Event(), threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        plain, _ = self._listening.accept()
        with self._context.wrap_socket(plain, server_side=True) as connection:
            received = b""
            while not received.endswith(b"\r\n\r\n{}"):  # what is left unread at its end resets a connection
                received += connection.recv(65_536)
            self.asked.set()
            self.may_answer.wait(WITHIN_S)
            with contextlib.suppress(OSError):  # who asked may have gone
                connection.sendall(ANSWER)

    def close(self) -> None:
        self.may_answer.set()
        self._listening.close()


@contextlib.contextmanager
def slow_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowServer]:
    """One whose certificate this process trusts."""
    certificate = folder / "certificate.pem"
    certificate.write_bytes(_made_certificate())
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server = SlowServer(certificate)
    try:
        yield server
    finally:
        server.close()


def _made_certificate() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, plain) + made.public_bytes(
        serialization.Encoding.PEM
    )
