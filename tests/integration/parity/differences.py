"""Where usbbridge answers otherwise than libusbredirhost, and why: the whole list.

Each entry is exact: what the one says, what the other says. One that is no longer so fails the tests as one that is
missing does. Where a connection ends, the rest of the script is not compared.
"""

from collections.abc import Iterable
from dataclasses import dataclass

Lines = tuple[str, ...]
REFERENCE, OURS = "libusbredirhost", "usbbridge"


@dataclass(frozen=True)
class Difference:
    """One step of one script: the lines, as `guest.show` writes them, of the reference and ours."""

    reason: str
    script: str
    step: str
    reference: Lines
    ours: Lines


def _because(reason: str, *places: tuple[str, str, Lines, Lines]) -> list[Difference]:
    """Script, step, what the reference says, what we say."""
    return [Difference(reason, *place) for place in places]


def expected_packets(host: str, script: str) -> dict[str, int]:
    """For the steps listed here, how many packets the host answers with, flowing data aside."""
    listed = [each for each in DIFFERENCES if each.script == script]
    return {each.step: _packets(each.reference if host == REFERENCE else each.ours) for each in listed}


def _packets(lines: Iterable[str]) -> int:
    """The end of the connection is one that never comes, but is waited for like one."""
    words = (line.split() for line in lines)
    answers = [w[0] in ANNOUNCED or (w[0].startswith("#") and w[1] not in FLOWING) or w == ENDED.split() for w in words]
    return sum(answers)


ANNOUNCED = ("interface_info", "ep_info")
FLOWING = ("iso_packet", "buffered_bulk_packet")

INTERFACES = "interface_info 0:ff/01/00, 1:ff/02/00, 2:ff/03/00"
ENDPOINTS = (
    "ep_info 00:control/0/if0/0/0, 02:bulk/0/if0/512/0, 04:interrupt/4/if0/64/0, "
    "80:control/0/if0/0/0, 81:bulk/0/if0/512/0, 83:interrupt/4/if0/64/0, "
    "87:bulk/0/if2/512/0"
)
WITH_ISO = (
    "ep_info 00:control/0/if0/0/0, 02:bulk/0/if0/512/0, 04:interrupt/4/if0/64/0, "
    "06:iso/4/if1/192/0, 80:control/0/if0/0/0, 81:bulk/0/if0/512/0, "
    "83:interrupt/4/if0/64/0, 85:iso/4/if1/192/0, 87:bulk/0/if2/512/0"
)
WITH_REPORTS = (
    "ep_info 00:control/0/if0/0/0, 02:bulk/0/if0/512/0, 04:interrupt/4/if0/64/0, "
    "80:control/0/if0/0/0, 81:bulk/0/if0/512/0, 83:interrupt/4/if0/64/0, "
    "87:interrupt/4/if2/64/0"
)
CONNECT = "#0 device_connect speed=2 class=0 subclass=0 protocol=0 vendor=4624 product=28 version=256"
CONNECT_SUPER = "#0 device_connect speed=3 class=0 subclass=0 protocol=0 vendor=4624 product=28 version=256"
HELLO = "#0 hello version=parity caps=0xff"
INTERFACES_2 = "interface_info 0:ff/09/00"
ENDPOINTS_2 = "ep_info 00:control/0/if0/0/0, 02:bulk/0/if0/512/0, 80:control/0/if0/0/0, 81:bulk/0/if0/512/0"
GET_INTERFACE = "#15 control_packet endpoint=128 request=10 requesttype=129 status=0 value=0 index=1 length=1"
STOPPED = (
    "#0 interrupt_receiving_status status=4 endpoint=131",
    "#0 iso_stream_status status=4 endpoint=133",
)
ENDED = "end of the connection"

DIFFERENCES: list[Difference] = [
    *_because(
        (
            "A guest's filter may be right behind its hello, so the device is not announced, nor taken from "
            "its kernel driver, before what has come with the hello is read: until then there is no device "
            "to ask."
        ),
        (
            "packets right behind hello",
            "both at once",
            (HELLO, INTERFACES, ENDPOINTS, CONNECT, "#1 configuration_status status=0 configuration=1"),
            (HELLO, "#1 configuration_status status=3 configuration=0", INTERFACES, ENDPOINTS, CONNECT),
        ),
    ),
    *_because(
        (
            "What is not usbredir ends the session: whoever breaks one rule may break any, and a stream that "
            "has lost its step can't be followed. The library logs it and skips as many bytes as the bad "
            "packet says it has."
        ),
        ("a packet before hello", "hello", (INTERFACES, ENDPOINTS, CONNECT), (ENDED,)),
        ("interrupt receiving on an out endpoint", "start", (), (ENDED,)),
        ("interrupt packet to an in endpoint", "ask", (), (ENDED,)),
        ("nonsense", "unknown type", (), (ENDED,)),
        ("wrong direction", "device_disconnect", (), (ENDED,)),
        ("wrong length", "a byte too many", (), (ENDED,)),
        ("data of another length than said", "control", (), (ENDED,)),
        ("an acknowledgement of nothing", "acknowledged", (), (ENDED,)),
    ),
    *_because(
        (
            "Bulk streams are offered only where kernel and controller really make them, which is tried out "
            "first: a guest that was offered streams and does not get them gives up the device."
        ),
        (
            "attach at super speed",
            "attach",
            (
                HELLO,
                INTERFACES,
                (
                    "ep_info 00:control/0/if0/0/0, 02:bulk/0/if0/1024/16, 04:interrupt/4/if0/64/0, "
                    "80:control/0/if0/0/0, 81:bulk/0/if0/1024/16, 83:interrupt/4/if0/64/0, "
                    "87:bulk/0/if2/1024/0"
                ),
                CONNECT_SUPER,
            ),
            (
                HELLO,
                INTERFACES,
                (
                    "ep_info 00:control/0/if0/0/0, 02:bulk/0/if0/1024/0, 04:interrupt/4/if0/64/0, "
                    "80:control/0/if0/0/0, 81:bulk/0/if0/1024/0, 83:interrupt/4/if0/64/0, "
                    "87:bulk/0/if2/1024/0"
                ),
                CONNECT_SUPER,
            ),
        ),
        (
            "streams that the controller has not",
            "attach",
            (
                HELLO,
                INTERFACES,
                (
                    "ep_info 00:control/0/if0/0/0, 02:bulk/0/if0/1024/16, 04:interrupt/4/if0/64/0, "
                    "80:control/0/if0/0/0, 81:bulk/0/if0/1024/16, 83:interrupt/4/if0/64/0, "
                    "87:bulk/0/if2/1024/0"
                ),
                CONNECT_SUPER,
            ),
            (
                HELLO,
                INTERFACES,
                (
                    "ep_info 00:control/0/if0/0/0, 02:bulk/0/if0/1024/0, 04:interrupt/4/if0/64/0, "
                    "80:control/0/if0/0/0, 81:bulk/0/if0/1024/0, 83:interrupt/4/if0/64/0, "
                    "87:bulk/0/if2/1024/0"
                ),
                CONNECT_SUPER,
            ),
        ),
    ),
    *_because(
        ("More streams than were offered is the guest's mistake, not the device's."),
        (
            "streams that the controller has not",
            "alloc",
            ("#2 bulk_streams_status endpoints=131076 no_streams=4 status=3",),
            ("#2 bulk_streams_status endpoints=131076 no_streams=4 status=2",),
        ),
    ),
    *_because(
        ("To free streams that do not exist changes nothing; a guest gives up the device for an error."),
        (
            "streams that the controller has not",
            "free",
            ("#7 bulk_streams_status endpoints=131076 no_streams=0 status=2",),
            ("#7 bulk_streams_status endpoints=131076 no_streams=0 status=0",),
        ),
        (
            "streams that the controller has not",
            "free nothing",
            ("#8 bulk_streams_status endpoints=0 no_streams=0 status=2",),
            ("#8 bulk_streams_status endpoints=0 no_streams=0 status=0",),
        ),
        (
            "streams on a device without",
            "free",
            ("#3 bulk_streams_status endpoints=131076 no_streams=0 status=2",),
            ("#3 bulk_streams_status endpoints=131076 no_streams=0 status=0",),
        ),
    ),
    *_because(
        (
            "A packet for a stream that was never made is refused; the library's goes out on the endpoint as "
            "if it had named none."
        ),
        (
            "bulk on wrong endpoints",
            "a stream that is not",
            ("#9 bulk_packet endpoint=129 status=0 length=512 stream_id=1 data=512*7d292220",),
            ("#9 bulk_packet endpoint=129 status=2 length=0 stream_id=1",),
        ),
        (
            "bulk on wrong endpoints",
            "a stream that is not, out",
            ("#10 bulk_packet endpoint=2 status=0 length=8 stream_id=1",),
            ("#10 bulk_packet endpoint=2 status=2 length=0 stream_id=1",),
        ),
        (
            "streams that the controller has not",
            "on a stream",
            ("#9 bulk_packet endpoint=129 status=0 length=512 stream_id=1 data=512*7d292220",),
            ("#9 bulk_packet endpoint=129 status=2 length=0 stream_id=1",),
        ),
    ),
    *_because(
        (
            "A request that names what the device does not have is answered as the device would answer it, "
            "by a stall (USB 2.0 §9.4.5, §9.4.7); the library takes libusb's refusal for an error of input "
            "or output."
        ),
        (
            "features and halts",
            "clear endpoint 0",
            (("#11 control_packet endpoint=0 request=1 requesttype=2 status=3 value=0 index=0 length=0"),),
            (("#11 control_packet endpoint=0 request=1 requesttype=2 status=4 value=0 index=0 length=0"),),
        ),
        (
            "features and halts",
            "clear no endpoint",
            (("#12 control_packet endpoint=0 request=1 requesttype=2 status=3 value=0 index=143 length=0"),),
            (("#12 control_packet endpoint=0 request=1 requesttype=2 status=4 value=0 index=143 length=0"),),
        ),
    ),
    *_because(
        (
            "A configuration that does not exist is refused by a stall, as by a device (USB 2.0 §9.4.7), and "
            "nothing that has not changed is told again."
        ),
        (
            "a configuration that does not exist",
            "no such",
            (INTERFACES, ENDPOINTS, "#2 configuration_status status=3 configuration=1"),
            ("#2 configuration_status status=4 configuration=1",),
        ),
        (
            "unconfigured",
            "none again",
            (
                "interface_info",
                "ep_info 00:control/0/if0/0/0, 80:control/0/if0/0/0",
                "#8 configuration_status status=0 configuration=0",
            ),
            ("#8 configuration_status status=0 configuration=0",),
        ),
    ),
    *_because(
        (
            "An alternate setting that the descriptors do not have is the guest's mistake: it is refused "
            "without asking the device."
        ),
        (
            "alternate settings",
            "no such setting",
            ("#8 alt_setting_status status=3 interface=1 alt=0",),
            ("#8 alt_setting_status status=2 interface=1 alt=0",),
        ),
    ),
    *_because(
        (
            "libusb refuses control transfers over 4096 bytes, the kernel's limit. The backend does not tell "
            "why a transfer could not be started."
        ),
        (
            "control data",
            "out, refused",
            (("#10 control_packet endpoint=0 request=1 requesttype=64 status=2 value=0 index=0 length=0"),),
            (("#10 control_packet endpoint=0 request=1 requesttype=64 status=3 value=0 index=0 length=0"),),
        ),
        (
            "control data",
            "most",
            (("#18 control_packet endpoint=128 request=1 requesttype=192 status=2 value=0 index=0 length=0"),),
            (("#18 control_packet endpoint=128 request=1 requesttype=192 status=3 value=0 index=0 length=0"),),
        ),
    ),
    *_because(
        (
            "A control packet whose endpoint and request contradict each other in direction is refused. The "
            "library sends the device whatever happened to be in the buffer, or lets it write where nothing "
            "is read."
        ),
        (
            "control on wrong endpoints",
            "endpoint in, request out",
            (
                (
                    "#5 control_packet endpoint=128 request=1 requesttype=64 status=0 value=0 index=0 "
                    "length=8 data=0000000000000000"
                ),
            ),
            (("#5 control_packet endpoint=128 request=1 requesttype=64 status=2 value=0 index=0 length=0"),),
        ),
        (
            "control on wrong endpoints",
            "endpoint out, request in",
            (("#6 control_packet endpoint=0 request=1 requesttype=192 status=0 value=0 index=0 length=2"),),
            (("#6 control_packet endpoint=0 request=1 requesttype=192 status=2 value=0 index=0 length=0"),),
        ),
    ),
    *_because(
        (
            "Requests that change configuration or setting are carried out as the packets for it are, so "
            "that kernel, host and guest agree. The library passes them on, and believes the old state."
        ),
        (
            "configurations by control",
            "set interface",
            (("#2 control_packet endpoint=0 request=11 requesttype=1 status=0 value=1 index=1 length=0"),),
            (
                INTERFACES,
                WITH_ISO,
                ("#2 control_packet endpoint=0 request=11 requesttype=1 status=0 value=1 index=1 length=0"),
            ),
        ),
        (
            "configurations by control",
            "what the host thinks",
            ("#3 alt_setting_status status=0 interface=1 alt=0",),
            ("#3 alt_setting_status status=0 interface=1 alt=1",),
        ),
        (
            "configurations by control",
            "set configuration",
            (("#4 control_packet endpoint=0 request=9 requesttype=0 status=0 value=2 index=0 length=0"),),
            (
                INTERFACES_2,
                ENDPOINTS_2,
                ("#4 control_packet endpoint=0 request=9 requesttype=0 status=0 value=2 index=0 length=0"),
            ),
        ),
        (
            "configurations by control",
            "what the host thinks of that",
            ("#5 configuration_status status=0 configuration=1",),
            ("#5 configuration_status status=0 configuration=2",),
        ),
    ),
    *_because(
        ("The address of a device is its controller's business: passed on, it would be lost to the client."),
        (
            "configurations by control",
            "set address",
            (("#6 control_packet endpoint=0 request=5 requesttype=0 status=0 value=5 index=0 length=0"),),
            (("#6 control_packet endpoint=0 request=5 requesttype=0 status=4 value=5 index=0 length=0"),),
        ),
    ),
    *_because(
        (
            "What a change of setting or configuration cancels is answered before the change is told, and "
            "streams that end with it are said to have: the guest hears everything about the old endpoints "
            "before it hears of the new ones."
        ),
        (
            "setting of an interface in use",
            "set",
            (
                INTERFACES,
                WITH_REPORTS,
                "#2 alt_setting_status status=0 interface=2 alt=1",
                "#50 bulk_packet endpoint=135 status=1 length=0 stream_id=0",
                "#51 bulk_packet endpoint=135 status=1 length=0 stream_id=0",
            ),
            (
                "#50 bulk_packet endpoint=135 status=1 length=0 stream_id=0",
                "#51 bulk_packet endpoint=135 status=1 length=0 stream_id=0",
                INTERFACES,
                WITH_REPORTS,
                "#2 alt_setting_status status=0 interface=2 alt=1",
            ),
        ),
        (
            "setting of an interface in use",
            "set back",
            (INTERFACES, ENDPOINTS, "#4 alt_setting_status status=0 interface=2 alt=0"),
            (
                "#0 interrupt_receiving_status status=4 endpoint=135",
                INTERFACES,
                ENDPOINTS,
                "#4 alt_setting_status status=0 interface=2 alt=0",
            ),
        ),
        (
            "configuration in use",
            "set",
            (
                INTERFACES_2,
                ENDPOINTS_2,
                "#3 configuration_status status=0 configuration=2",
                "#50 bulk_packet endpoint=135 status=1 length=0 stream_id=0",
            ),
            (
                "#50 bulk_packet endpoint=135 status=1 length=0 stream_id=0",
                "#0 interrupt_receiving_status status=4 endpoint=131",
                INTERFACES_2,
                ENDPOINTS_2,
                "#3 configuration_status status=0 configuration=2",
            ),
        ),
        (
            "iso in",
            "setting while it runs",
            (INTERFACES, ENDPOINTS, "#11 alt_setting_status status=0 interface=1 alt=0"),
            (
                "#0 iso_stream_status status=4 endpoint=133",
                INTERFACES,
                ENDPOINTS,
                "#11 alt_setting_status status=0 interface=1 alt=0",
            ),
        ),
    ),
    *_because(
        (
            "A start of what runs is invalid, however it was asked for: the stream goes on, and the library's word, "
            "stalled, is the one for a stream that has stopped."
        ),
        (
            "iso parameters",
            "33 packets while it runs",
            ("#22 iso_stream_status status=4 endpoint=6",),
            ("#22 iso_stream_status status=2 endpoint=6",),
        ),
    ),
    *_because(
        (
            "An answer is of the kind that was asked for; the library's is of the kind that the endpoint "
            "has, and for one that has none it says nothing."
        ),
        (
            "setting of an interface in use",
            "stop",
            ("#5 bulk_receiving_status stream_id=0 endpoint=135 status=0",),
            ("#5 interrupt_receiving_status status=0 endpoint=135",),
        ),
        (
            "interrupt receiving where it can not be",
            "bulk",
            ("#2 bulk_receiving_status stream_id=0 endpoint=129 status=4",),
            ("#2 interrupt_receiving_status status=4 endpoint=129",),
        ),
        (
            "interrupt receiving where it can not be",
            "none",
            (),
            ("#3 interrupt_receiving_status status=4 endpoint=143",),
        ),
        (
            "interrupt receiving where it can not be",
            "control",
            (),
            ("#4 interrupt_receiving_status status=4 endpoint=128",),
        ),
        (
            "interrupt receiving where it can not be",
            "stop bulk",
            ("#5 bulk_receiving_status stream_id=0 endpoint=129 status=0",),
            ("#5 interrupt_receiving_status status=0 endpoint=129",),
        ),
        (
            "interrupt receiving where it can not be",
            "stop none",
            (),
            ("#6 interrupt_receiving_status status=0 endpoint=143",),
        ),
        (
            "interrupt receiving where it can not be",
            "stop control",
            (),
            ("#7 interrupt_receiving_status status=0 endpoint=128",),
        ),
        ("iso where it can not be", "not in this setting", (), ("#2 iso_stream_status status=4 endpoint=133",)),
        (
            "iso where it can not be",
            "bulk",
            ("#3 bulk_receiving_status stream_id=0 endpoint=129 status=4",),
            ("#3 iso_stream_status status=4 endpoint=129",),
        ),
        (
            "iso where it can not be",
            "interrupt",
            ("#4 interrupt_receiving_status status=4 endpoint=131",),
            ("#4 iso_stream_status status=4 endpoint=131",),
        ),
        ("iso where it can not be", "control", (), ("#5 iso_stream_status status=4 endpoint=128",)),
        ("iso where it can not be", "stop none", (), ("#6 iso_stream_status status=0 endpoint=133",)),
        (
            "iso where it can not be",
            "stop bulk",
            ("#7 bulk_receiving_status stream_id=0 endpoint=129 status=0",),
            ("#7 iso_stream_status status=0 endpoint=129",),
        ),
        (
            "iso where it can not be",
            "stop interrupt",
            ("#8 interrupt_receiving_status status=0 endpoint=131",),
            ("#8 iso_stream_status status=0 endpoint=131",),
        ),
        ("iso where it can not be", "packet", (), ("#9 iso_stream_status status=2 endpoint=6",)),
        ("iso where it can not be", "packet to bulk", (), ("#10 iso_stream_status status=2 endpoint=2",)),
        ("iso where it can not be", "packet to interrupt", (), ("#11 iso_stream_status status=2 endpoint=4",)),
        (
            "bulk receiving parameters",
            "interrupt",
            ("#12 interrupt_receiving_status status=4 endpoint=131",),
            ("#12 bulk_receiving_status stream_id=0 endpoint=131 status=4",),
        ),
        ("bulk receiving parameters", "none", (), ("#13 bulk_receiving_status stream_id=0 endpoint=143 status=4",)),
        ("bulk receiving parameters", "control", (), ("#14 bulk_receiving_status stream_id=0 endpoint=128 status=4",)),
        (
            "bulk receiving parameters",
            "stop interrupt",
            ("#17 interrupt_receiving_status status=0 endpoint=131",),
            ("#17 bulk_receiving_status stream_id=0 endpoint=131 status=0",),
        ),
        (
            "bulk receiving parameters",
            "stop none",
            (),
            ("#18 bulk_receiving_status stream_id=0 endpoint=143 status=0",),
        ),
        (
            "rejected",
            "streams",
            ("#10 interrupt_receiving_status status=4 endpoint=131",),
            ("#10 interrupt_receiving_status status=4 endpoint=131", "#11 iso_stream_status status=4 endpoint=133"),
        ),
        ("rejected", "iso", (), ("#15 iso_stream_status status=3 endpoint=6",)),
    ),
    *_because(
        (
            "bEndpointAddress has reserved bits (USB 2.0 §9.6.6): with one of them set it is no endpoint's. "
            "The library ignores them when it looks for the endpoint, and lets the kernel refuse."
        ),
        (
            "bulk on wrong endpoints",
            "reserved bits",
            ("#8 bulk_packet endpoint=241 status=3 length=0 stream_id=0",),
            ("#8 bulk_packet endpoint=241 status=2 length=0 stream_id=0",),
        ),
    ),
    *_because(
        (
            "A bulk transfer over our limit is refused without trying, and said to be invalid; the library's "
            "is refused by the kernel, which has no memory for it."
        ),
        (
            "bulk too long",
            "20 MiB",
            ("#2 bulk_packet endpoint=129 status=3 length=0 stream_id=0",),
            ("#2 bulk_packet endpoint=129 status=2 length=0 stream_id=0",),
        ),
        (
            "bulk too long",
            "128 MiB",
            ("#3 bulk_packet endpoint=129 status=3 length=0 stream_id=0",),
            ("#3 bulk_packet endpoint=129 status=2 length=0 stream_id=0",),
        ),
    ),
    *_because(
        (
            "libusbredirhost 0.13 dies of it (CVE-2026-92382): half of one packet is none, so it never sees "
            "that there is enough to start with, and takes the second packet for one of a transfer that does "
            "not exist."
        ),
        ("one transfer of one packet out", "packets", (ENDED,), ()),
        ("one transfer of one packet out", "the host's process", ("ended with -11",), ()),
    ),
    *_because(
        ("Transfers of no bytes would end at once, for ever."),
        (
            "bulk receiving parameters",
            "4 of 0",
            ("#2 bulk_receiving_status stream_id=0 endpoint=135 status=0",),
            ("#2 bulk_receiving_status stream_id=0 endpoint=135 status=4",),
        ),
    ),
    *_because(
        (
            "A stream of an endpoint is no receiving endpoint; the library receives from the endpoint "
            "itself, and says so."
        ),
        (
            "bulk receiving parameters",
            "a stream",
            ("#15 bulk_receiving_status stream_id=0 endpoint=135 status=0",),
            ("#15 bulk_receiving_status stream_id=3 endpoint=135 status=4",),
        ),
    ),
    *_because(
        (
            "A reset through libusb leaves every interface in setting 0, as libusb gives them up for it. The guest "
            "is told; the library goes on believing in the setting from before."
        ),
        ("resets", "reset set", (), (INTERFACES, ENDPOINTS)),
        (
            "resets",
            "get set",
            (
                "#14 alt_setting_status status=0 interface=1 alt=1",
                f"{GET_INTERFACE} data=00",
            ),
            (
                "#14 alt_setting_status status=0 interface=1 alt=0",
                f"{GET_INTERFACE} data=00",
            ),
        ),
        (
            "reset with work under way",
            "reset",
            (*STOPPED, "#50 bulk_packet endpoint=135 status=1 length=0 stream_id=0"),
            (*STOPPED, "#50 bulk_packet endpoint=135 status=1 length=0 stream_id=0", ENDPOINTS, INTERFACES),
        ),
    ),
    *_because(
        ("The answer to a start has the start's id, whatever it says."),
        (
            "reset with work under way",
            "start iso again",
            ("#0 iso_stream_status status=4 endpoint=133",),
            ("#8 iso_stream_status status=4 endpoint=133",),
        ),
    ),
    *_because(
        ("A guest's filter is obeyed, whenever it comes. The library leaves that to the program around it."),
        ("a filter that denies", "denied", (), ("#0 device_disconnect",)),
        (
            "a filter that denies",
            "asks all the same",
            (
                (
                    "#3 control_packet endpoint=128 request=6 requesttype=128 status=0 value=256 "
                    "index=0 length=18 data=120100020000004010121c00000101020302"
                ),
            ),
            (("#3 control_packet endpoint=128 request=6 requesttype=128 status=3 value=256 index=0 length=0"),),
        ),
    ),
    *_because(
        (
            "A guest that has let go of the device is not served any more: there is one device to a session. "
            "The library waits for the next device."
        ),
        ("rejected", "acknowledged", (), (ENDED,)),
    ),
]
