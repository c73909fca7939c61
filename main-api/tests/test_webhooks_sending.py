"""Where a webhook is sent, and where it never is: real servers, and name servers that lie."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from background_parts import OtherServer, Received, Reply
from main_api.webhooks.addresses import is_allowed, parse_networks
from main_api.webhooks.sending import NotAllowed, NotSent, Policy, Sender
from main_api.webhooks.target import Target, WrongTarget

LOOPBACK = parse_networks("127.0.0.0/8,::1/128")


def sender(resolver: Callable[[str, int], list[str]] | None = None, **policy: object) -> Sender:
    """One that may go to this machine at any port, for the servers of these tests."""
    allowed = Policy(**{"ports": None, "private": LOOPBACK, **policy})  # type: ignore[arg-type]
    return Sender(allowed, resolver) if resolver else Sender(allowed)


def accepted(_: Received) -> Reply:
    return Reply(204)


@pytest.fixture
def receiver() -> Iterator[OtherServer]:
    with OtherServer(accepted) as server:
        yield server


# -- addresses


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "192.0.0.1",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::808:808",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:db8::1",
        "2002:7f00:1::1",
        "2002:a9fe:a9fe::1",
        "2606:4700::5efe:7f00:1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "ff02::1",
        "no address",
    ],
)
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    assert not is_allowed(address)


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::", "2606:4700::1111"],
)
def test_public_addresses_are_allowed(address: str) -> None:
    assert is_allowed(address)


def test_a_companys_own_network_can_be_allowed_and_nothing_beside_it() -> None:
    own = parse_networks("10.1.0.0/16, fd12::/32")
    assert is_allowed("10.1.2.3", own)
    assert is_allowed("::ffff:10.1.2.3", own)
    assert is_allowed("fd12::1", own)
    assert not is_allowed("10.2.0.1", own)
    assert not is_allowed("127.0.0.1", own)


# -- URLs


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "http:///path",
        "http://user@example.com/",
        "http://user:word@example.com/",
        "http://example.com@127.0.0.1/",
        "http://example.com:22/",
        "http://example.com:6379/",
        "http://example.com:99999/",
        "http://example.com\\@127.0.0.1/",
        "http://exa mple.com/",
        "http://example.com/\r\nX: y",
        "http://ex\u00e4mple.com/",
        "http://[fe80::1%25eth0]/",
        "http://" + "a" * 2000 + ".com/",
    ],
)
def test_urls_that_are_no_target_are_refused(url: str) -> None:
    with pytest.raises(WrongTarget):
        Policy().check(url)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/", "http://[::1]/", "https://169.254.169.254/latest", "http://[::ffff:10.0.0.1]/"],
)
def test_a_private_address_that_is_written_out_is_refused_at_once(url: str) -> None:
    with pytest.raises(WrongTarget):
        Policy().check(url)


def test_a_target_says_host_port_and_path_as_they_are_sent() -> None:
    target = Target.parse("https://example.com:8443/a?b=c#d", frozenset({8443}))
    assert (target.authority, target.path) == ("example.com:8443", "/a?b=c")
    assert Target.parse("http://[::1]:80", None).authority == "[::1]"


@pytest.mark.parametrize("host", ["2130706433", "0177.0.0.1", "0x7f.0.0.1", "127.1", "localhost", "0"])
def test_other_ways_to_write_this_machine_lead_nowhere(host: str, receiver: OtherServer) -> None:
    with pytest.raises(NotAllowed):
        Sender(Policy(ports=None)).post(f"http://{host}:{receiver.port}/", b"{}", {})
    assert receiver.received == []


# -- connecting


def test_a_webhook_arrives_with_its_body_headers_and_the_names_host(receiver: OtherServer) -> None:
    to = sender(lambda host, port: ["127.0.0.1"])
    reply = to.post(f"http://client.example:{receiver.port}/hook?x=1", b'{"a":1}', {"webhook-id": "w1"})
    assert reply.status == 204
    (got,) = receiver.received
    assert (got.path, got.body) == ("/hook?x=1", b'{"a":1}')
    assert got.headers["host"] == f"client.example:{receiver.port}"
    assert got.headers["webhook-id"] == "w1"


def test_an_answer_that_changes_after_the_check_changes_nothing(receiver: OtherServer) -> None:
    """The name is public when it is checked, and would be this machine when it is connected to."""
    answers = iter([["203.0.113.1", "8.8.8.8"], ["127.0.0.1"]])
    asked = []

    def lying(host: str, port: int) -> list[str]:
        asked.append(host)
        return next(answers)

    with pytest.raises(NotAllowed):
        Sender(Policy(ports=None), lying).post(f"http://rebind.example:{receiver.port}/", b"{}", {})
    with pytest.raises(NotAllowed):
        Sender(Policy(ports=None), lying).post(f"http://rebind.example:{receiver.port}/", b"{}", {})
    assert receiver.received == []
    # Looked up once for each request: what was checked is what would have been connected to.
    assert asked == ["rebind.example"] * 2


def test_the_checked_address_is_connected_to_without_asking_again(receiver: OtherServer) -> None:
    answers = iter([["127.0.0.1"]])
    to = sender(lambda host, port: next(answers))
    assert to.post(f"http://once.example:{receiver.port}/", b"{}", {}).status == 204


def test_one_private_address_among_public_ones_is_enough_to_refuse(receiver: OtherServer) -> None:
    for found in (["8.8.8.8", "10.0.0.1"], ["2606:4700::1111", "::1"]):
        with pytest.raises(NotAllowed):
            Sender(Policy(ports=None), lambda host, port, found=found: found).post(  # type: ignore[misc]
                f"http://mixed.example:{receiver.port}/", b"{}", {}
            )
    assert receiver.received == []


def test_a_proxy_of_the_environment_takes_no_part(
    receiver: OtherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OtherServer(accepted) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert sender().post(f"{receiver.url}/", b"{}", {}).status == 204
        assert proxy.received == []
    assert len(receiver.received) == 1


def test_the_second_address_is_tried_when_the_first_does_not_answer(receiver: OtherServer) -> None:
    to = sender(lambda host, port: ["127.1.2.3", "::1", "127.0.0.1"])
    with OtherServer(accepted, host="127.0.0.1") as other:
        assert to.post(f"http://several.example:{other.port}/", b"{}", {}).status == 204


# -- redirects


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]/",
        "http://10.0.0.1:8080/",
        "http://2852039166/",
        "ftp://8.8.8.8/",
        "http://user@8.8.8.8/",
        "http://8.8.8.8:22/",
        "file:///etc/passwd",
        "//127.0.0.2:8080/",
    ],
)
def test_a_redirect_is_checked_like_the_first_address(location: str) -> None:
    with OtherServer(lambda got: Reply(307, headers={"Location": location})) as receiver:
        # Only the first server is allowed: a public one, so to say.
        policy = Policy(
            ports=frozenset({80, 443, 8080, receiver.port}), private=parse_networks("127.0.0.1/32")
        )
        with pytest.raises(NotAllowed):
            Sender(policy).post(f"{receiver.url}/", b"{}", {})
        assert len(receiver.received) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_to_an_allowed_address_is_followed_with_the_same_body(
    status: int, receiver: OtherServer
) -> None:
    with OtherServer(lambda got: Reply(status, headers={"Location": f"{receiver.url}/there"})) as first:
        assert sender().post(f"{first.url}/here", b"body", {"webhook-id": "w"}).status == 204
    (got,) = receiver.received
    assert (got.path, got.body, got.headers["webhook-id"]) == ("/there", b"body", "w")


def test_redirects_without_end_are_given_up_after_three() -> None:
    with OtherServer(lambda got: Reply(302, headers={"Location": "/again"})) as receiver:
        with pytest.raises(NotSent, match="3 redirects"):
            sender().post(f"{receiver.url}/", b"{}", {})
        assert len(receiver.received) == 4


def test_a_redirect_to_a_name_whose_address_is_private_is_refused(receiver: OtherServer) -> None:
    def resolver(host: str, port: int) -> list[str]:
        return {"public.example": ["127.0.0.1"], "inner.example": ["127.0.0.2"]}[host]

    location = f"http://inner.example:{receiver.port}/"
    with OtherServer(lambda got: Reply(308, headers={"Location": location})) as first:
        to = Sender(Policy(ports=None, private=parse_networks("127.0.0.1/32")), resolver)
        with pytest.raises(NotAllowed):
            to.post(f"http://public.example:{first.port}/", b"{}", {})
    assert receiver.received == []


# -- slow and endless receivers


@contextmanager
def raw_server(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server of bytes: `serve` gets each connection, in a thread of its own; the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=guarded, args=(connection,), daemon=True).start()

        def guarded(connection: socket.socket) -> None:
            try:
                with connection:
                    serve(connection)
            except OSError:
                pass

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def read_request(connection: socket.socket) -> None:
    """All of it: closing with bytes unread would break the connection off."""
    received = b""
    while not received.endswith(b"\r\n\r\n{}"):
        received += connection.recv(65536)


def drip(connection: socket.socket, before: bytes, bit: bytes) -> None:
    read_request(connection)
    connection.sendall(before)
    over = threading.Event()
    while not over.wait(0.05):
        connection.sendall(bit)


@pytest.mark.parametrize(
    ("before", "bit"),
    [
        (b"", b"H"),
        (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x"),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["status line", "header", "headers", "interim answers"],
)
def test_an_answer_that_drips_is_ended_by_the_deadline(before: bytes, bit: bytes) -> None:
    with raw_server(lambda connection: drip(connection, before, bit)) as port, pytest.raises(NotSent):
        sender(timeout_s=0.4).post(f"http://127.0.0.1:{port}/", b"{}", {})


def test_a_body_that_drips_does_not_hold_up_what_is_known_by_then() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"
    with raw_server(lambda connection: drip(connection, head, b"x")) as port:
        assert sender().post(f"http://127.0.0.1:{port}/", b"{}", {}).status == 200


def test_a_redirect_whose_body_drips_is_followed(receiver: OtherServer) -> None:
    head = f"HTTP/1.1 307 Go\r\nLocation: {receiver.url}/\r\nContent-Length: 100000\r\n\r\n".encode()
    with raw_server(lambda connection: drip(connection, head, b"x")) as port:
        assert sender().post(f"http://127.0.0.1:{port}/", b"{}", {}).status == 204


@pytest.mark.parametrize(
    "answer",
    [b"SSH-2.0-OpenSSH_9\r\n", b"HTTP/1.1 abc\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200],
)
def test_what_is_no_http_is_no_answer(answer: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(answer)

    with raw_server(serve) as port, pytest.raises(NotSent):
        sender().post(f"http://127.0.0.1:{port}/", b"{}", {})


def test_a_receiver_that_takes_no_bytes_is_ended_by_the_deadline() -> None:
    over = threading.Event()
    with raw_server(lambda connection: bool(over.wait()) and None) as port:  # type: ignore[func-returns-value]
        with pytest.raises(NotSent, match="no answer within"):
            sender(timeout_s=0.4).post(f"http://127.0.0.1:{port}/", b"x" * 30_000_000, {})
        over.set()


def test_a_name_server_that_is_silent_is_ended_by_the_deadline() -> None:
    over = threading.Event()

    def silent(host: str, port: int) -> list[str]:
        over.wait()
        return ["8.8.8.8"]

    with pytest.raises(NotSent):
        sender(silent, timeout_s=0.3).post("http://slow.example/", b"{}", {})
    over.set()


def test_nobody_there_is_said_without_saying_more() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(NotSent, match="refused"):
        sender().post(f"http://127.0.0.1:{port}/", b"{}", {})


def test_a_name_without_address_is_not_sent() -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    with pytest.raises(NotSent, match="resolved"):
        sender(unknown).post("http://nobody.example/", b"{}", {})


# -- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate and key of `good.example` in one file."""
    folder = tmp_path_factory.mktemp("tls")
    names = ["-subj", "/CN=good.example", "-addext", "subjectAltName=DNS:good.example"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([*command, *files], check=True, capture_output=True)
    (folder / "both.pem").write_text((folder / "cert.pem").read_text() + (folder / "key.pem").read_text())
    return folder / "both.pem"


@pytest.fixture
def tls_port(certificate: Path) -> Iterator[tuple[int, list[str | None]]]:
    """A server with TLS: its port, and the names that clients asked for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    names: list[str | None] = []
    context.sni_callback = lambda connection, name, _: names.append(name)

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            read_request(secure)
            secure.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    with raw_server(serve) as port:
        yield port, names


def test_the_name_is_what_tls_is_asked_for_and_checked_against(
    tls_port: tuple[int, list[str | None]], certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, names = tls_port
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    to = sender(lambda host, port: ["127.0.0.1"])
    assert to.post(f"https://good.example:{port}/", b"{}", {}).status == 204
    assert names == ["good.example"]
    with pytest.raises(NotSent, match="certificate"):
        to.post(f"https://other.example:{port}/", b"{}", {})


def test_a_certificate_of_nobody_known_is_refused(tls_port: tuple[int, list[str | None]]) -> None:
    port, _ = tls_port
    with pytest.raises(NotSent, match="certificate"):
        sender(lambda host, port: ["127.0.0.1"]).post(f"https://good.example:{port}/", b"{}", {})


def test_a_redirect_from_https_to_http_is_refused() -> None:
    secure = Target.parse("https://good.example/", None)
    with pytest.raises(WrongTarget, match="https"):
        secure.redirected("http://good.example/", None)
    assert secure.redirected("/x", None).path == "/x"
