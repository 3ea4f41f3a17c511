"""What a connection tells of itself."""

import socket

from usbbridge.spice.sockets import delivery_rate


def test_what_tcp_carries_is_known_when_something_was_carried() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
        with ours, theirs:
            ours.sendall(bytes(100_000))
            assert len(theirs.recv(100_000, socket.MSG_WAITALL)) == 100_000
            theirs.sendall(b"got it")  # brings the acknowledgement, if that has not come
            ours.recv(10)
            assert delivery_rate(ours) > 1e5


def test_what_is_no_tcp_does_not_tell() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert delivery_rate(ours) == 0
