"""gunicorn's settings, the same for every service, and what it leaves open about slow clients."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from enlight_common.settings import ServerSettings, SettingsError
from enlight_common.web.logs import log_settings

# Above nginx's keepalive_timeout for upstreams (60 s), so that it is nginx that closes an idle connection: a
# request sent on a connection that closes at that moment would be lost.
_KEEP_ALIVE_SECONDS = 75
_FIRST_BYTE_SECONDS = 5
# gunicorn kills its worker this much later than the worker itself gives up: connections kept alive get
# another 2 s, and what the end of the grace time stopped gets its answer.
_MARGIN_SECONDS = 8
#: The exit status of a service that was set up wrongly.
_BAD_SETTINGS = 2
_NONE: Mapping[str, str] = {}


def gunicorn_settings_of(settings: ServerSettings, name: str) -> dict[str, Any]:
    """`gunicorn_settings` for a service with these *settings*, called *name* in the list of processes."""
    return gunicorn_settings(
        host=settings.host,
        port=settings.port,
        threads=settings.threads,
        grace_s=settings.grace_s + _MARGIN_SECONDS,
        name=name,
        log_level=settings.log_level,
    )


def gunicorn_settings(
    *, host: str, port: int, threads: int, grace_s: int, name: str, log_level: str = "INFO", stall_s: int = 60
) -> dict[str, Any]:
    """Settings for a gunicorn of one process and `threads` threads, by gunicorn's names.

    `grace_s` is how long requests in flight may go on after SIGTERM, draining the app included, `stall_s`
    how long a client may neither take nor send a byte in the middle of a request. One process: the model is
    in its memory.
    """
    return {
        "bind": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        "proc_name": name,
        "workers": 1,
        "worker_class": "enlight_common.web.draining.DrainingWorker",
        "threads": threads,
        # Connections, idle ones included; far above the threads so that idle keep-alive ones cost nothing.
        "worker_connections": max(1000, 4 * threads),
        "backlog": 512,
        "keepalive": _KEEP_ALIVE_SECONDS,
        "graceful_timeout": grace_s,
        # With one, gunicorn kills a worker whose main thread does not get the interpreter for so long, which
        # loading a large model can do, and everything in flight with it. /healthz tells of a hanging process.
        "timeout": 0,
        # The heartbeat file must not wait for a disk.
        "worker_tmp_dir": "/dev/shm" if os.path.isdir("/dev/shm") else None,
        # Several instances on a machine would share its default path.
        "control_socket_disable": True,
        "forwarded_allow_ips": "127.0.0.1,::1",
        "limit_request_line": 4094,
        "limit_request_fields": 64,
        "logconfig_dict": log_settings(log_level),
        "accesslog": None,
        "loglevel": log_level.lower(),
        "when_ready": functools.partial(_bound_slow_clients, stall_s),
        "post_worker_init": _prepare_worker,
    }


def serve(package: str, check: Callable[[], object], *, environment: Mapping[str, str] = _NONE) -> NoReturn:
    """Become the service in *package*, with its modules `gunicorn_config` and `app`, or end with a message.

    *check* raises SettingsError where a setting is wrong. *environment* holds variables that must be set
    before libraries are imported; each counts where the operator has not set it.
    """
    try:
        check()
    except SettingsError as error:
        print(f"{package}: {error}", file=sys.stderr)
        sys.exit(_BAD_SETTINGS)
    for variable, value in environment.items():
        os.environ.setdefault(variable, value)
    become_gunicorn(f"{package}.gunicorn_config", f"{package}.app:create_app()")


def become_gunicorn(config: str, app: str) -> NoReturn:
    """Become a gunicorn with the settings of the module *config*, that serves *app* ("package.app:create()"),
    so that signals reach it.
    """
    command = [sys.executable, "-m", "gunicorn", "-c", f"python:{config}", app]
    os.execv(sys.executable, command)


def _bound_slow_clients(stall_s: int, server: Any) -> None:
    """Keep silent clients from holding threads; accepted connections inherit a listener's options on Linux.

    gunicorn gives a new connection a thread that waits up to 5 s for its first byte: a few hundred silent
    clients would hold all of them. With TCP_DEFER_ACCEPT the kernel keeps such connections to itself. Its
    threads also read and write without a timeout.
    """
    timeout = struct.pack("ll", stall_s, 0)
    first_byte = getattr(socket, "TCP_DEFER_ACCEPT", None)
    for listener in server.LISTENERS:
        listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
        listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
        if first_byte is not None and listener.sock.family in (socket.AF_INET, socket.AF_INET6):
            listener.sock.setsockopt(socket.IPPROTO_TCP, first_byte, _FIRST_BYTE_SECONDS)


def _prepare_worker(worker: Any) -> None:
    """Send Python's warnings to the log, and let the worker close connections at once.

    gunicorn's main thread waits up to 2 s for each client to close its side first, and accepts nothing
    meanwhile: a few clients that keep their end open would silence the service.
    """
    logging.captureWarnings(True)
    enqueue: Callable[[Any], None] = worker.enqueue_req

    def enqueue_req(connection: Any) -> None:
        connection.close = functools.partial(_close, connection)
        enqueue(connection)

    worker.enqueue_req = enqueue_req


def _close(connection: Any, graceful: bool = False) -> None:
    client: socket.socket = connection.sock
    with contextlib.suppress(OSError):
        if graceful:
            client.setblocking(False)
            client.shutdown(socket.SHUT_WR)
            # Unread bytes would make the kernel send a reset, which can destroy the answer on its way.
            for _ in range(16):
                if not client.recv(4096):
                    break
    client.close()
