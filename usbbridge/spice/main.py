"""The MAIN channel: the session, and which channels the VM has (SPICE protocol, "Main channel")."""

from collections.abc import Callable

from usbbridge.errors import ConnectionLostError
from usbbridge.spice.channel import Channel, Handler
from usbbridge.spice.errors import MalformedMessageError, NoSessionError
from usbbridge.spice.link import LinkResult
from usbbridge.spice.messages import (
    CHANNEL_ENTRY,
    INIT,
    MAX_CHANNELS,
    MAX_TEXT,
    MOUSE_MODE,
    U32,
    UUID_BYTES,
    ChannelsList,
    ChannelType,
    Event,
    Init,
    MainCap,
    MainClientMessage,
    MainServerMessage,
    MouseMode,
    MultiMediaTime,
    Name,
    Uuid,
)
from usbbridge.spice.reader import MAX_UNKNOWN, WINDOW, Rule

MAIN_CAPS = frozenset({MainCap.NAME_AND_UUID})
"""What to announce when MAIN is linked: no migration, which would be offered and could not be followed; no agent
tokens, as the agent is not spoken to."""

MAX_NAME = 64 * 1024
"A NAME's body, of which `MAX_TEXT` are kept; libvirt's names are limited by the file name they become (255)."


class MainChannel(Channel):
    """The session's MAIN channel. It ends the session when it ends; a second client's ends it, too.

    Sends ATTACH_CHANNELS when the session begins, and nothing else of its own: spice-server disconnects a client that
    sends CLIENT_INFO. What comes from the agent (AGENT_*) and for the display is skipped.
    """

    def __init__(self, link: LinkResult, handler: Handler | None = None) -> None:
        super().__init__(link, handler)
        self.init: Init | None = None
        "Set when the session has begun."
        self.channels: tuple[tuple[int, int], ...] = ()
        """(type, id) of every channel the server has listed so far, in ascending order. It never says that one is gone;
        a link to it fails then."""
        self.listed = False
        "The server has listed its channels at least once."

    def rules(self) -> dict[int, Rule]:
        migrate = Rule(0, 0, MAX_UNKNOWN, self._migrate)
        listed = U32.size + CHANNEL_ENTRY.size * MAX_CHANNELS
        return super().rules() | {
            MainServerMessage.INIT: Rule(INIT.size, INIT.size, WINDOW, self._init),
            MainServerMessage.CHANNELS_LIST: Rule(U32.size, listed, listed, self._channels_list),
            MainServerMessage.NAME: self._event(Name.parse, U32.size, U32.size + MAX_TEXT, MAX_NAME),
            MainServerMessage.UUID: self._event(Uuid.parse, UUID_BYTES, UUID_BYTES),
            MainServerMessage.MOUSE_MODE: self._event(MouseMode.parse, MOUSE_MODE.size, MOUSE_MODE.size),
            MainServerMessage.MULTI_MEDIA_TIME: self._event(MultiMediaTime.parse, U32.size, U32.size),
            MainServerMessage.MIGRATE_BEGIN: migrate,
            MainServerMessage.MIGRATE_BEGIN_SEAMLESS: migrate,
            MainServerMessage.MIGRATE_SWITCH_HOST: migrate,
        }

    def _event(self, parse: Callable[[memoryview], Event], least: int, keep: int, most: int = WINDOW) -> Rule:
        """The rule of a message that is passed on as it is."""
        return Rule(least, keep, most, lambda body: self.tell(parse(body)))

    def usb_channels(self) -> tuple[int, ...]:
        """The ids of the VM's USBREDIR channels, ascending; each takes one device at a time."""
        return tuple(id_ for type_, id_ in self.channels if type_ == ChannelType.USBREDIR)

    def ended(self) -> Exception:
        if self.init is None:
            return NoSessionError(self.link.where, "it closed the connection")
        return ConnectionLostError(
            f"{self.link.where} ended the session",
            hint="Another SPICE client has connected (a new one ends the old one's session), or the VM has ended.",
        )

    def _init(self, body: memoryview) -> None:
        if self.init is not None:
            raise MalformedMessageError(MainServerMessage.INIT, "the session has begun already")
        self.init = Init.parse(body)
        self._answer(MainClientMessage.ATTACH_CHANNELS)
        self.tell(self.init)

    def _channels_list(self, body: memoryview) -> None:
        event = ChannelsList.parse(body)
        self.channels = tuple(sorted({*self.channels, *event.channels}))
        self.listed = True
        self.tell(event)
