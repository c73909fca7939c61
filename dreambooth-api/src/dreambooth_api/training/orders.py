"""What the service tells its trainer: one packet each, on a socket that both ends hold.

A packet is a JSON object; with `Begin` go two open files. When the service is gone the socket ends.
"""

from __future__ import annotations

import dataclasses
import json
import socket
from dataclasses import dataclass
from typing import Literal

#: Who has the device while pictures are wanted: see `turns`.
SharingPolicy = Literal["interactive-first", "share", "training-first"]

_MAX_PACKET_BYTES = 65_536  # the name of a folder, and room
_DESCRIPTORS = 2


@dataclass(frozen=True)
class Begin:
    """Do the job in `folder`. Its lock and its log come along."""

    folder: str
    policy: SharingPolicy


@dataclass(frozen=True)
class Stop:
    """Save a checkpoint after the present step, and leave."""


@dataclass(frozen=True)
class Pictures:
    """Whether pictures are wanted of the device that the training is on, from now on."""

    waiting: bool


Order = Begin | Stop | Pictures
_TYPES: dict[str, type[Order]] = {kind.__name__.lower(): kind for kind in (Begin, Stop, Pictures)}


@dataclass(frozen=True)
class Received:
    """An order; with `Begin` the open files that came along, the receiver's to keep or close."""

    order: Order
    descriptors: tuple[int, ...]


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """The service's end and the trainer's. Packets keep their bounds, and open files go with theirs."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(service_end: socket.socket, order: Order, descriptors: tuple[int, ...] = ()) -> None:
    """Never waits. Raises BrokenPipeError and its like when nobody is at the other end, BlockingIOError when
    a trainer that hangs has let too many lie.
    """
    packet = json.dumps({"type": type(order).__name__.lower(), **dataclasses.asdict(order)}).encode()
    socket.send_fds(service_end, [packet], descriptors, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def receive(trainer_end: socket.socket) -> Received | None:
    """The next order, waiting for it; None when the service is gone."""
    packet, descriptors, _, _ = socket.recv_fds(
        trainer_end, _MAX_PACKET_BYTES, _DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
    )
    if not packet:
        return None
    fields = json.loads(packet)
    return Received(_TYPES[fields.pop("type")](**fields), tuple(descriptors))
