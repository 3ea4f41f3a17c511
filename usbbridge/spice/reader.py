"""How a channel's incoming bytes become messages, without anything growing by a size the server names.

Sans-IO. What is to be received goes where `buffer()` says, and `received()` tells how much came. A body is kept only as
far as its type needs (`Rule.keep`); the rest is thrown away as it comes. Four things can be going on:

    parsing     the window holds the start of a message, or nothing
    gathering   a body that is larger than the window is received into a buffer of its own
    streaming   a body that is a piece of a byte stream goes to the stream's receiver, big ones without being copied
    skipping    the rest of a body nobody needs is received and forgotten
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from usbbridge.spice.errors import MalformedMessageError, MessageTooLargeError
from usbbridge.spice.framing import FULL_HEADER, MINI_HEADER, header_size
from usbbridge.spice.messages import U16, U32, ServerMessage

WINDOW = 16 * 1024
"Bytes received at once: some hundred small messages, and little memory."
DIRECT = 4 * 1024
"From so many bytes of a stream's body on, they are received without a copy: below, the copy costs less than a recv."
MAX_STREAM = 16 * 1024 * 1024
"One piece of a byte stream. spice-server cuts at 64 KiB + 32; it is passed on as it comes, never stored."
MAX_UNKNOWN = 16 * 1024 * 1024
"A body of unknown type: skipped, so the limit only keeps nonsense from blocking the channel for hours."
FITTING = WINDOW - FULL_HEADER.size
"The largest body that fits the window. Also the limit of one with sub-messages in it, which servers hardly ever send."
MAX_SUB_MESSAGES = 64
"So that one message cannot cause thousands of answers, by naming one PING again and again."

_MINI, _FULL = MINI_HEADER.unpack_from, FULL_HEADER.unpack_from
_SUB_MESSAGE = MINI_HEADER


class Receiver(Protocol):
    """Who takes a channel's byte stream, such as usbredir's decoder."""

    def buffer(self) -> memoryview:
        """Where the stream's next bytes may be received; not empty."""

    def received(self, n: int) -> None:
        """`n` bytes were put into `buffer()`."""

    def feed(self, data: memoryview) -> None:
        """The stream's next bytes; valid only during the call."""


class Rule(NamedTuple):
    """What is done with a message type."""

    least: int
    "Smallest legal body."
    keep: int
    "Bytes of the body that `take` is given at most; the rest is skipped."
    most: int
    "Largest body that is tolerated."
    take: Callable[[memoryview], None]


def _ignore(_body: memoryview) -> None:
    pass


_UNKNOWN = Rule(0, 0, MAX_UNKNOWN, _ignore)


class MessageReader:
    """One direction of a channel. `rules()` says what is understood; all other messages are skipped."""

    def __init__(self, mini: bool, stream: Receiver | None, stream_type: int) -> None:
        self._stream = stream
        self._stream_type = stream_type
        self._mini = mini
        self._head = header_size(mini)
        self._rules = self.rules()
        if stream is not None:
            # Only for a piece of the stream that carries sub-messages or is one; all others pass by `_stream_body`.
            self._rules[stream_type] = Rule(0, FITTING, FITTING, self._listed_stream)
        self._window = memoryview(bytearray(WINDOW))
        self._end = 0
        "Bytes in the window that have not been parsed; they always start at 0 between calls."
        self._streaming = 0
        "Bytes of the body that are still to go to the stream."
        self._skipping = 0
        self._gathered: memoryview | None = None
        self._gathered_end = 0
        self._after: tuple[Rule, memoryview, int] | None = None
        "The message to be taken when gathering or skipping is over, with its list of sub-messages."
        self._counting = False
        "Every message is to be announced to `count()`."
        self._heard = False
        self._dead: Exception | None = None

    def rules(self) -> dict[int, Rule]:
        """The messages that are understood, by type."""
        return {ServerMessage.LIST: Rule(U16.size, FITTING, FITTING, self._list)}

    def count(self) -> None:
        """A message is about to be taken."""

    @property
    def amid(self) -> bool:
        """Part of a message has arrived, and the rest has not."""
        return bool(self._end or self._streaming or self._skipping) or self._gathered is not None

    def buffer(self) -> memoryview:
        """Where the next bytes from the server are to be received; never empty, and valid until the next call."""
        if self._streaming >= DIRECT:
            assert self._stream is not None
            return self._stream.buffer()[: self._streaming]
        if self._gathered is not None:
            return self._gathered[self._gathered_end :]
        return self._window[self._end :]

    def received(self, n: int) -> None:
        """`n` bytes were put into `buffer()`."""
        if self._dead is not None:
            raise self._dead
        self._heard = True
        try:
            self._advance(n)
        except Exception as error:
            self._dead = error
            raise

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """The same for bytes that lie elsewhere, such as those that came with the end of the link stage."""
        rest = memoryview(data)
        while rest:
            target = self.buffer()
            n = min(len(target), len(rest))
            target[:n] = rest[:n]
            self.received(n)
            rest = rest[n:]

    def _advance(self, n: int) -> None:
        if self._streaming >= DIRECT:
            assert self._stream is not None
            self._streaming -= n
            self._stream.received(n)
        elif self._gathered is not None:
            self._gathered_end += n
            if self._gathered_end == len(self._gathered):
                self._gathered = None
                self._finish()
        else:
            self._end += n
            self._parse()

    def _parse(self) -> None:
        """Take whole messages out of the window; what is left of the last one moves to its start."""
        window, end, head, mini, start = self._window, self._end, self._head, self._mini, 0
        if self._skipping or self._streaming:
            start = self._continue(end)
        stream_type = self._stream_type
        while end - start >= head:
            if mini:
                type_, size = _MINI(window, start)
                sub_list = 0
            else:
                _serial, type_, size, sub_list = _FULL(window, start)
            body = start + head
            if type_ == stream_type and not sub_list:
                start = self._stream_body(body, min(body + size, end), size)
            else:
                after = self._message(type_, size, sub_list, body, end)
                if after < 0:
                    break
                start = after
        if start:
            window[: end - start] = window[start:end]
        self._end = end - start

    def _stream_body(self, start: int, end: int, size: int) -> int:
        """Pass on what is there of a stream's body; returns where it ends in the window."""
        if size > MAX_STREAM:
            raise MessageTooLargeError(self._stream_type, size, MAX_STREAM)
        if self._counting:
            self.count()
        assert self._stream is not None
        if start < end:
            self._stream.feed(self._window[start:end])
        self._streaming = size - (end - start)
        return end

    def _continue(self, end: int) -> int:
        """More of a body that is streamed or skipped; returns where it ends in the window."""
        if self._streaming:
            n = min(self._streaming, end)
            self._streaming -= n
            assert self._stream is not None
            self._stream.feed(self._window[:n])
            return n
        n = min(self._skipping, end)
        self._skipping -= n
        if not self._skipping:
            self._finish()
        return n

    def _message(self, type_: int, size: int, sub_list: int, body: int, end: int) -> int:
        """Take one message; returns where it ends in the window, or -1 if what is needed of it is not yet there."""
        rule = self._rules.get(type_, _UNKNOWN)
        most = min(rule.most, FITTING) if sub_list else rule.most
        if size > most:
            raise MessageTooLargeError(type_, size, most)
        if size < rule.least:
            raise MalformedMessageError(type_, f"{size} bytes, and {rule.least} is the least")
        keep = size if sub_list else min(size, rule.keep)
        if keep > FITTING:
            return self._gather(rule, size, keep, body, end)
        if end - body < keep:
            return -1
        if keep == size:
            self._take(rule, self._window[body : body + keep], sub_list)
            return body + size
        self._after = (rule, memoryview(bytes(self._window[body : body + keep])), sub_list)
        self._skipping = size - keep
        there = min(end - body - keep, self._skipping)
        self._skipping -= there
        if not self._skipping:
            self._finish()
        return body + keep + there

    def _gather(self, rule: Rule, size: int, keep: int, body: int, end: int) -> int:
        """Start to collect a body that is too large for the window; `rule.keep` has bounded it."""
        assert keep == size, "what is larger than the window is kept whole or not at all"
        gathered = memoryview(bytearray(size))
        there = min(size, end - body)
        gathered[:there] = self._window[body : body + there]
        self._after = (rule, gathered, 0)
        if there == size:
            self._finish()
        else:
            self._gathered, self._gathered_end = gathered, there
        return body + there

    def _finish(self) -> None:
        after, self._after = self._after, None
        assert after is not None
        self._take(*after)

    def _take(self, rule: Rule, body: memoryview, sub_list: int) -> None:
        # The reference client counts a message before it looks at it, so that a SET_ACK counts against the old window.
        if self._counting:
            self.count()
        if sub_list:
            self._sub_messages(body, sub_list)
            body = body[: rule.keep]
        rule.take(body)

    def _list(self, body: memoryview) -> None:
        self._sub_messages(body, 0)

    def _listed_stream(self, body: memoryview) -> None:
        assert self._stream is not None
        if body:
            self._stream.feed(body)

    def _sub_messages(self, body: memoryview, offset: int) -> None:
        """Take the sub-messages whose list is at `offset` (SubMessageList: u16 count, count x u32 offset)."""
        if offset + U16.size > len(body):
            raise MalformedMessageError(ServerMessage.LIST, f"a list at {offset} of {len(body)} bytes")
        (count,) = U16.unpack_from(body, offset)
        if count > MAX_SUB_MESSAGES or offset + U16.size + 4 * count > len(body):
            raise MalformedMessageError(ServerMessage.LIST, f"{count} sub-messages in {len(body)} bytes")
        for index in range(count):
            (at,) = U32.unpack_from(body, offset + U16.size + 4 * index)
            self._sub_message(body, at)

    def _sub_message(self, body: memoryview, at: int) -> None:
        start = at + _SUB_MESSAGE.size
        if start > len(body):
            raise MalformedMessageError(ServerMessage.LIST, f"a sub-message at {at} of {len(body)} bytes")
        type_, size = _SUB_MESSAGE.unpack_from(body, at)
        rule = self._rules.get(type_, _UNKNOWN)
        if type_ == ServerMessage.LIST or start + size > len(body) or size < rule.least:
            raise MalformedMessageError(ServerMessage.LIST, f"a sub-message of type {type_} with {size} bytes")
        rule.take(body[start : start + min(size, rule.keep)])
