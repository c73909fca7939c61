"""gunicorn's settings, the same for every service."""

from __future__ import annotations

import socket
from typing import Any

from enlight_common.web.logs import log_settings

# Above nginx's keepalive_timeout for upstreams (60 s), so that it is nginx that closes an idle connection: a
# request sent on a connection that closes at that moment would be lost.
_KEEP_ALIVE_SECONDS = 75
_FIRST_BYTE_SECONDS = 5


def gunicorn_settings(
    *, host: str, port: int, threads: int, grace_s: int, name: str, log_level: str = "INFO"
) -> dict[str, Any]:
    """Settings for a gunicorn of one process and `threads` threads, by gunicorn's names.

    `grace_s` is how long requests in flight may go on after SIGTERM. One process: the model is in its memory.
    """
    return {
        "bind": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        "proc_name": name,
        "workers": 1,
        "worker_class": "gthread",
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
        "worker_tmp_dir": "/dev/shm",
        # Several instances on a machine would share its default path.
        "control_socket_disable": True,
        "forwarded_allow_ips": "127.0.0.1,::1",
        "limit_request_line": 4094,
        "limit_request_fields": 64,
        "logconfig_dict": log_settings(log_level),
        "accesslog": None,
        "loglevel": log_level.lower(),
        "when_ready": accept_with_data,
    }


def accept_with_data(server: Any) -> None:
    """Let the kernel hand over a connection only when its first bytes are there.

    gunicorn gives a new connection a thread that waits up to 5 s for data: a few hundred silent clients would
    keep all threads from answering.
    """
    option = getattr(socket, "TCP_DEFER_ACCEPT", None)  # Linux only
    for listener in server.LISTENERS:
        if option is not None and listener.sock.family in (socket.AF_INET, socket.AF_INET6):
            listener.sock.setsockopt(socket.IPPROTO_TCP, option, _FIRST_BYTE_SECONDS)
