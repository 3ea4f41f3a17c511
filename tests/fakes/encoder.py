"""An encoder on a thread of the test's process, whose starter is the test; and a VM's port as the test wants it."""

import dataclasses
import os
import socket
import threading
from pathlib import Path

from tests.fakes.guest import FakeGuest
from usbbridge.encoder import main
from usbbridge.ipc.channel import MessageChannel, pair
from usbbridge.ipc.messages import Ended, Message, Progressed, Start, Stats, Stop

SECONDS = 20.0


class RunningEncoder:
    """`tell` it, `hear` what it says, `join` it for its last word."""

    def __init__(self) -> None:
        self.channel, theirs = pair()
        self.theirs = MessageChannel(theirs)
        self.wakeup, self.signal = os.pipe()
        self.ended: list[Ended | BaseException] = []
        self.said: list[Message] = []
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.ended.append(main.attach(self.theirs, self.wakeup))
        except BaseException as error:
            self.ended.append(error)
        self.theirs.close()

    def start(self, target: str, **fields: object) -> None:
        self.tell(dataclasses.replace(Start("test", target=target), **fields))

    def tell(self, message: Message) -> None:
        self.channel.send(message)

    def hear(self) -> Message | None:
        received = self.channel.receive()
        if received is not None:
            self.said.append(received[0])
        return received and received[0]

    def hear_step(self, step: str) -> Progressed:
        while (message := self.hear()) is not None:
            if isinstance(message, Progressed) and message.step == step:
                return message
        raise AssertionError(f"it ended without {step}: {self.ended}")

    def join(self) -> Ended:
        self.thread.join(SECONDS)
        assert not self.thread.is_alive(), "the encoder goes on"
        (ended,) = self.ended
        if isinstance(ended, BaseException):
            raise ended
        return ended

    def stop(self) -> Ended:
        self.tell(Stop())
        return self.join()

    def last_stats(self) -> Stats:
        while self.hear() is not None:
            pass
        return [message for message in self.said if isinstance(message, Stats)][-1]

    def close(self) -> None:
        self.channel.close()
        self.thread.join(SECONDS)
        os.close(self.wakeup)
        os.close(self.signal)


class RawVm:
    """A VM's usbredir port on a UNIX socket, of which the test decides every packet."""

    def __init__(self, folder: Path) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(folder / "vm"))
        self.listener.listen()
        self.listener.settimeout(SECONDS)
        self.target = f"unix:{folder / 'vm'}"
        self.guest = FakeGuest()
        self.sock: socket.socket | None = None

    def accept(self) -> "RawVm":
        """Take the encoder's connection and exchange hellos."""
        self.sock, _ = self.listener.accept()
        self.sock.settimeout(SECONDS)
        self.send()
        return self

    def send(self) -> None:
        """Send what the guest has said."""
        assert self.sock is not None
        self.sock.sendall(self.guest.take_out())

    def wait_for(self, kind: type) -> object:
        """Receive until the guest has heard such a packet."""
        assert self.sock is not None
        while True:
            heard = self.guest.ear.heard
            while heard:
                packet = heard.pop(0)[1]
                if isinstance(packet, kind):
                    return packet
            data = self.sock.recv(1 << 16)
            assert data, f"the connection ended before {kind.__name__}"
            self.guest.codec.feed(data)

    def rest(self) -> bytes:
        """Everything until the end of the connection."""
        assert self.sock is not None
        data = b""
        while piece := self.sock.recv(1 << 16):
            data += piece
        return data

    def close(self) -> None:
        self.listener.close()
        if self.sock is not None:
            self.sock.close()
