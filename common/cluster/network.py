"""The network that processes of several machines reach one another by."""

import array
import fcntl
import os
import socket
import struct
from collections.abc import MutableMapping

GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"
SIOCGIFADDR = 0x8915  # of Linux: the address of an interface


def own_address(towards: str, port: int) -> str:
    """The IPv4 address of this machine from which another one is reached; empty if it is not known. Nothing is sent.

    Args:
        towards: name or address of the other one.
        port: any of its ports.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((towards, port))
        except OSError:
            return ""  # there is no way to it, or it has no address of this kind
        return str(probe.getsockname()[0])


def interface_of(address: str) -> str:
    """The network interface that has an IPv4 address; empty if none has, or the system does not tell."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = array.array("B", struct.pack("256s", name.encode()[:15]))
            try:
                fcntl.ioctl(probe, SIOCGIFADDR, request)
            except OSError:
                continue  # it has no such address
            if socket.inet_ntoa(request[20:24].tobytes()) == address:
                return name
    return ""


def choose_interface(towards: str, port: int, environment: MutableMapping[str, str] = os.environ) -> str:
    """Let gloo use the interface that leads to another machine, unless a user has chosen one.

    It would take the address that the machine's own name has, and on many machines that is 127.0.0.1.

    Args:
        towards: name or address of the other machine.
        port: any of its ports.
        environment: variables by name, changed in place.

    Returns:
        The interface; empty if it is left to gloo.
    """
    if chosen := environment.get(GLOO_INTERFACE):
        return chosen
    found = interface_of(own_address(towards, port))
    if found:
        environment[GLOO_INTERFACE] = found
    return found
