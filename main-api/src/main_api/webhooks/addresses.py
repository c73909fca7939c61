"""Which addresses a client's URL may make this machine connect to: those of the public Internet only.

What counts is the address that is connected to, however it was written or named, and every IPv4 address that
an IPv6 address leads to.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")  # RFC 4291, all that IANA gives out
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
_RELAYS_6TO4 = ipaddress.IPv4Network("192.88.99.0/24")  # RFC 7526, deprecated
_ISATAP = (0x00005EFE, 0x02005EFE)  # RFC 5214, the upper half of the interface's id


def parse_networks(text: str) -> tuple[Network, ...]:
    """Networks in CIDR notation with commas between. Raises ValueError."""
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


def is_allowed(address: str, private: Sequence[Network] = ()) -> bool:
    """Whether `address` is a public one, or in one of the networks `private`."""
    try:
        found: Address = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return any(found in network for network in private) or _is_public(found)


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return False
        if address in _NAT64:
            return _is_public(_v4(int(address)))
        # Teredo (2001::/32) is among the addresses that are not global; 6to4 (2002::/16) was, before 3.11.4.
        six_to_four = address.sixtofour is not None
        if address not in _GLOBAL_UNICAST or not (address.is_global or six_to_four):
            return False
        low = int(address) & (2**64 - 1)
        leads_to = [address.sixtofour] if address.sixtofour is not None else []
        if low >> 32 in _ISATAP:
            leads_to.append(_v4(low))
        return all(_is_public(one) for one in leads_to)
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and address not in _RELAYS_6TO4
    )


def _v4(number: int) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(number & (2**32 - 1))
