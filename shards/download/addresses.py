"""Which addresses a list from a stranger may make us connect to: public ones, and no others."""

import errno
import ipaddress
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network

# RFC 6052: its last 32 bits are the IPv4 address behind the gateway.
NAT64 = IPv6Network("64:ff9b::/96")


class PrivateAddress(OSError):  # noqa: N818  # as DamagedImage: what was found
    """Connecting was refused here, not over there."""


def is_public(address: str) -> bool:
    """Whether an IPv4 or IPv6 address is one of the Internet's own, also where it carries another
    one inside.
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    inner = _inner(found)
    return all(map(_is_public, inner)) if inner else _is_public(found)


def _inner(address: IPv4Address | IPv6Address) -> list[IPv4Address]:
    """The IPv4 addresses that an IPv6 address leads to: mapped, 6to4, Teredo (server and client),
    NAT64.
    """
    if isinstance(address, IPv4Address):
        return []
    if address in NAT64:
        return [IPv4Address(address.packed[-4:])]
    inner: list[IPv4Address | None] = [
        address.ipv4_mapped,
        address.sixtofour,
        *(address.teredo or ()),
    ]
    return [each for each in inner if each is not None]


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    site_local = isinstance(address, IPv6Address) and address.is_site_local
    return address.is_global and not (address.is_multicast or address.is_reserved or site_local)


def public_socket(info: tuple) -> socket.socket:
    """A socket for one result of `getaddrinfo`. Raises PrivateAddress.

    It is asked for right before connecting, after names were resolved and redirects followed, so
    there is nothing left that could lead elsewhere.
    """
    family, kind, protocol, _, address = info
    if not is_public(address[0]):
        raise PrivateAddress(errno.EACCES, f"private address {address[0]}")
    return socket.socket(family, kind, protocol)
