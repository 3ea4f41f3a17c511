"""The layouts of SPICE's messages, field by field, as spice-protocol and spice.proto have them.

Tools and tests read and build messages with these. The program itself starts faster and takes less memory with the
`struct` formats of `usbbridge.spice.framing` and `usbbridge.spice.messages`; a unit test proves the two equal.
"""

from typing import Final

from construct import Byte, Bytes, Const, Int16ul, Int32ul, Int64ul, PrefixedArray, Struct, this

LINK_HEADER: Final = Struct(
    "magic" / Const(b"REDQ"),
    "major" / Int32ul,
    "minor" / Int32ul,
    "size" / Int32ul,
)

LINK_MESS: Final = Struct(
    "connection_id" / Int32ul,
    "channel_type" / Byte,
    "channel_id" / Byte,
    "num_common_caps" / Int32ul,
    "num_channel_caps" / Int32ul,
    "caps_offset" / Int32ul,
    "common_caps" / Int32ul[this.num_common_caps],
    "channel_caps" / Int32ul[this.num_channel_caps],
)

LINK_REPLY: Final = Struct(
    "error" / Int32ul,
    "pub_key" / Bytes(162),
    "num_common_caps" / Int32ul,
    "num_channel_caps" / Int32ul,
    "caps_offset" / Int32ul,
    "common_caps" / Int32ul[this.num_common_caps],
    "channel_caps" / Int32ul[this.num_channel_caps],
)

MINI_HEADER: Final = Struct("type" / Int16ul, "size" / Int32ul)

FULL_HEADER: Final = Struct("serial" / Int64ul, "type" / Int16ul, "size" / Int32ul, "sub_list" / Int32ul)

SET_ACK: Final = Struct("generation" / Int32ul, "window" / Int32ul)

PING: Final = Struct("id" / Int32ul, "timestamp" / Int64ul)
"Padding of any length may follow; PONG has none."

DISCONNECTING: Final = Struct("time_stamp" / Int64ul, "reason" / Int32ul)

NOTIFY: Final = Struct(
    "time_stamp" / Int64ul,
    "severity" / Int32ul,
    "visibility" / Int32ul,
    "what" / Int32ul,
    "message_len" / Int32ul,
)
"`message_len` bytes and a NUL that it does not count follow."

INIT: Final = Struct(
    "session_id" / Int32ul,
    "display_channels_hint" / Int32ul,
    "supported_mouse_modes" / Int32ul,
    "current_mouse_mode" / Int32ul,
    "agent_connected" / Int32ul,
    "agent_tokens" / Int32ul,
    "multi_media_time" / Int32ul,
    "ram_hint" / Int32ul,
)

CHANNEL_ENTRY: Final = Struct("type" / Byte, "id" / Byte)

CHANNELS_LIST: Final = PrefixedArray(Int32ul, CHANNEL_ENTRY)

MOUSE_MODE: Final = Struct("supported" / Int16ul, "current" / Int16ul)

COMPRESSED_DATA: Final = Struct("type" / Byte, "uncompressed_size" / Int32ul)
"The LZ4 block follows."
