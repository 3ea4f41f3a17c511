"""What is sent through a SPICE channel, and how."""

import socket
import struct
from types import SimpleNamespace

import pytest

from tests.unit.spice.samples import Stream, linked
from usbbridge.encoder.link import SpiceLink
from usbbridge.spice.connection import Linked

DATA, COMPRESSED_DATA = 101, 102
TEXT = b"Compressible, compressible, compressible. " * 100


@pytest.mark.parametrize(("isochronous", "kind"), [(False, COMPRESSED_DATA), (True, DATA)])
def test_nothing_is_compressed_while_pictures_or_sound_run(*, isochronous: bool, kind: int) -> None:
    host = SimpleNamespace(codec=Stream(), isochronous=isochronous)
    ours, theirs = _tcp_pair()
    with ours, theirs:
        link = SpiceLink(Linked(ours, linked(mini=True, caps=frozenset({0})), b"", False), host, compression="auto")
        assert link.frame is not None
        parts = link.frame([TEXT], len(TEXT))
    assert struct.unpack_from("<H", b"".join(parts)) == (kind,)
    assert (parts[-1] == TEXT) is isochronous


def _tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        return ours, server.accept()[0]
