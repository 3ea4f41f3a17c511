"""The framing between the lab and the agent in a machine, over one virtio-serial port.

Each frame is a header and a body. The header carries the body's length, the kind, the number of the process or question
it belongs to, and, from the machine, the machine's own monotonic clock in seconds: what happens inside is timed by the
clock inside, whatever the emulator's speed.
"""

import enum
import struct

HEADER = struct.Struct(">IBId")

# Output is cut into frames of this size, so that one talkative process does not hold up another's.
CHUNK = 64 * 1024

# The largest body either side accepts: an answer listing every fd of every process stays far below.
MAX_BODY = 16 * 1024 * 1024


class Kind(enum.IntEnum):
    """Kind of a frame: requests of the lab from 1, reports of the machine from 16."""

    SPAWN = 1  # JSON: argv, env, cwd, tty
    STDIN = 2  # bytes for a process; an empty body is end of file
    SIGNAL = 3  # JSON: signal number, sent to the process group
    QUERY = 4  # JSON: op and its arguments
    READY = 16  # JSON: kernel release
    SPAWNED = 17  # JSON: pid
    STDOUT = 18
    STDERR = 19
    EXITED = 20  # JSON: exit status, or minus the signal's number
    FAILED = 21  # JSON: why a spawn or a query failed
    ANSWER = 22  # JSON
    UEVENT = 23  # JSON: the kernel's uevent as a mapping
    REAPED = 24  # JSON: pid of a process that ended after its parent had


def pack(kind: Kind, number: int, body: bytes = b"", time: float = 0.0) -> bytes:
    """One whole frame."""
    return HEADER.pack(len(body), kind, number, time) + body


class Splitter:
    """Cuts a byte stream into frames; it may be fed in any pieces."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[Kind, int, float, bytes]]:
        """The frames that `data` completes, each as (kind, number, time, body).

        Raises ValueError for a body over MAX_BODY or an unknown kind: the stream is out of step, for good.
        """
        self._buffer += data
        frames = []
        while len(self._buffer) >= HEADER.size:
            length, kind, number, time = HEADER.unpack_from(self._buffer)
            if length > MAX_BODY:
                raise ValueError(f"frame of {length} bytes")
            end = HEADER.size + length
            if len(self._buffer) < end:
                break
            frames.append((Kind(kind), number, time, bytes(self._buffer[HEADER.size : end])))
            del self._buffer[:end]
        return frames
