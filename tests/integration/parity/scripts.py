"""What the guests say: the scripts that both hosts have to answer. The device is `tools.lab.devices.paragon`."""

from collections.abc import Callable
from typing import Any

from tests.integration.parity.script import (
    ALL_OF,
    HELLO,
    Act,
    Raw,
    Said,
    Script,
    Writer,
    asked,
    behave,
    control,
    descriptor,
    iso,
    order,
    read,
    report,
    sum_of,
    write,
)
from tools.lab.devices.paragon import (
    BULK_IN,
    BULK_OUT,
    INTERRUPT_IN,
    INTERRUPT_OUT,
    ISO_IN,
    ISO_OUT,
    MESSAGES_IN,
    Manner,
    Order,
)
from usbbridge.usb.ch9 import Request, Speed
from usbbridge.usbredir import packets as p
from usbbridge.usbredir.proto import ALL_CAPS, Cap

CANCEL, RESET = p.CancelDataPacket(), p.Reset()
DISCONNECT_ACK = Raw(bytes.fromhex("18000000 00000000 0000000000000000"))
"Once too often, no codec would say it."
HALT = 0
SHORT_TEXT, LONG_TEXT = b"a few words", bytes(range(256)) * 16

SCRIPTS: list[Script] = []

Write = Callable[[Writer], None]


def script(**how: Any) -> Callable[[Write], Write]:
    """A function that writes a script; its name is the script's."""

    def write(function: Write) -> Write:
        writer = Writer()
        function(writer)
        SCRIPTS.append(Script(function.__name__.replace("_", " "), tuple(writer.steps), **how))
        return function

    return write


# ---- attaching


@script(resets=True)
def attach_with_every_capability(say: Writer) -> None:
    say.attach(bytes=True)


for name, caps in {
    "no capabilities": Cap(0),
    "no 64 bit ids": ALL_CAPS & ~Cap.IDS_64BIT,
    "no 32 bit lengths": ALL_CAPS & ~Cap.BULK_LENGTH_32BIT,
    "no packet sizes": ALL_CAPS & ~Cap.EP_INFO_MAX_PACKET_SIZE,
    "no device version": ALL_CAPS & ~Cap.CONNECT_DEVICE_VERSION,
    "no streams": ALL_CAPS & ~Cap.BULK_STREAMS,
    "no filter": ALL_CAPS & ~Cap.FILTER,
    "no bulk receiving": ALL_CAPS & ~Cap.BULK_RECEIVING,
}.items():
    writer = Writer()
    writer.attach(bytes=True)
    writer.say("device descriptor", descriptor(1))
    writer.say("bulk", write(BULK_OUT, SHORT_TEXT), read(BULK_IN, 1000), unordered=True)
    writer.say("long bulk", read(BULK_IN, 60_000))
    SCRIPTS.append(Script(f"hello with {name}", tuple(writer.steps), caps))


@script()
def hello_twice(say: Writer) -> None:
    say.attach()
    head = bytes.fromhex("00000000 44000000 0000000000000000")
    say.say("again", Raw(head + b"again".ljust(64, b"\0") + b"\xff\0\0\0"))
    say.say("goes on", descriptor(1))


@script()
def packets_right_behind_hello(say: Writer) -> None:
    """No guest speaks to a device that it does not know of yet; it could."""
    hello = b"\0\0\0\0" + (68).to_bytes(4, "little") + bytes(4) + b"hasty".ljust(64, b"\0") + b"\xff\0\0\0"
    ask = bytes.fromhex("07000000 00000000 0100000000000000")
    say.say("both at once", Raw(hello + ask), more=5, fence=False)


@script()
def a_packet_before_hello(say: Writer) -> None:
    say.say("early", Raw(bytes.fromhex("03000000 00000000 00000000")), fence=False, more=1)
    say.say("hello", HELLO, more=3)


@script(speed=Speed.SUPER)
def attach_at_super_speed(say: Writer) -> None:
    say.attach()
    say.say("device descriptor", descriptor(1))
    say.say("bulk", read(BULK_IN, 5000))


@script(speed=Speed.FULL)
def attach_at_full_speed(say: Writer) -> None:
    say.attach(bytes=True)
    say.say("device descriptor", descriptor(1))
    say.say("bulk", read(BULK_IN, 5000))


# ---- control


@script()
def standard_requests(say: Writer) -> None:
    say.attach()
    for kind in (1, 2, 3, 6, 7, 15, 0x22):
        say.say(f"descriptor {kind}", descriptor(kind))
    say.say("string in English", descriptor(3, 2, language=0x0409))
    say.say("second configuration", descriptor(2, 1))
    say.say("no third one", descriptor(2, 2))
    say.say("first bytes", descriptor(1, length=8))
    say.say("none of it", descriptor(1, length=0))
    say.say("more than there is", descriptor(1, length=4096))
    say.say("status of the device", control(0x80, Request.GET_STATUS, data=2))
    say.say("of an interface", control(0x81, Request.GET_STATUS, data=2))
    say.say("of none", control(0x81, Request.GET_STATUS, index=9, data=2))
    say.say("of an endpoint", control(0x82, Request.GET_STATUS, index=BULK_IN, data=2))
    say.say("of none such", control(0x82, Request.GET_STATUS, index=0x8F, data=2))
    say.say("get configuration", control(0x80, Request.GET_CONFIGURATION, data=1))
    say.say("get interface", control(0x81, Request.GET_INTERFACE, index=1, data=1))
    say.say("set descriptor", control(0x00, 7, 0x100, data=b"none"))
    say.say("synch frame", control(0x82, 12, index=ISO_IN, data=2))
    say.say("unknown request", control(0x80, 0x33, data=4))


@script()
def features_and_halts(say: Writer) -> None:
    say.attach()
    say.say("remote wake-up", control(0x00, Request.SET_FEATURE, 1))
    say.say("test mode", control(0x00, Request.SET_FEATURE, 2))
    say.say("halt", control(0x02, Request.SET_FEATURE, HALT, BULK_IN))
    say.say("halted", control(0x82, Request.GET_STATUS, index=BULK_IN, data=2))
    say.say("read", read(BULK_IN, 10))
    say.say("clear halt", control(0x02, Request.CLEAR_FEATURE, HALT, BULK_IN))
    say.say("not halted", control(0x82, Request.GET_STATUS, index=BULK_IN, data=2))
    say.say("read again", read(BULK_IN, 10))
    say.say("clear what is not halted", control(0x02, Request.CLEAR_FEATURE, HALT, BULK_OUT))
    say.say("clear endpoint 0", control(0x02, Request.CLEAR_FEATURE, HALT, 0))
    say.say("clear no endpoint", control(0x02, Request.CLEAR_FEATURE, HALT, 0x8F))
    say.say("another feature", control(0x02, Request.CLEAR_FEATURE, 5, BULK_IN))
    say.say("of the device", control(0x00, Request.CLEAR_FEATURE, 1))


@script()
def control_data(say: Writer) -> None:
    say.attach()
    say.say("out", order(Order.STORE, data=SHORT_TEXT))
    say.say("in, short", asked(Order.STORE))
    say.say("in, as asked", asked(Order.STORE, length=len(SHORT_TEXT)))
    say.say("in, cut off", asked(Order.STORE, length=3))
    say.say("out, long", order(Order.STORE, data=LONG_TEXT))
    say.say("in, long", asked(Order.STORE, length=len(LONG_TEXT)))
    say.say("out, nothing", order(Order.STORE))
    say.say("in, nothing there", asked(Order.STORE))
    say.say("out, refused", order(Order.STORE, data=LONG_TEXT + b"!"))
    say.say("stall", order(Order.BEHAVE, 99))
    say.say("in, stall", asked(Order.BEHAVE))
    say.say("class request", control(0xA1, 1, data=8))
    say.say("reserved type", control(0xE0, 1, data=8))
    say.say("reserved recipient", control(0xC4, 1, data=8))
    say.say("to an interface that is not there", control(0xC1, Order.STORE, index=77, data=8))
    say.say("to an endpoint that is not there", control(0xC2, Order.STORE, index=0x0D, data=8))
    say.say("most", asked(Order.STORE, length=65535))


@script()
def control_on_wrong_endpoints(say: Writer) -> None:
    say.attach()
    fields = (Order.STORE, 0xC0, 0, 0, 0)
    say.say("bulk endpoint", p.ControlPacket(BULK_IN, *fields, 8))
    say.say("no endpoint", p.ControlPacket(0x8F, *fields, 8))
    say.say("no endpoint, out", p.ControlPacket(0x0F, Order.STORE, 0x40, 0, 0, 0, 2, b"xy"))
    say.say("endpoint in, request out", p.ControlPacket(0x80, Order.STORE, 0x40, 0, 0, 0, 8))
    say.say("endpoint out, request in", p.ControlPacket(0x00, Order.STORE, 0xC0, 0, 0, 0, 2, b"xy"))
    say.say("the same without data", p.ControlPacket(0x00, Order.STORE, 0xC0, 0, 0, 0, 0))
    say.say("goes on", descriptor(1))


@script()
def configurations_by_control(say: Writer) -> None:
    """No guest does that, as far as is known: it has packets of its own for these."""
    say.attach()
    say.say("set interface", control(0x01, Request.SET_INTERFACE, 1, 1))
    say.say("what the host thinks", p.GetAltSetting(1))
    say.say("set configuration", control(0x00, Request.SET_CONFIGURATION, 2))
    say.say("what the host thinks of that", p.GetConfiguration())
    say.say("set address", control(0x00, Request.SET_ADDRESS, 5))


# ---- configurations and alternate settings


@script()
def configurations(say: Writer) -> None:
    say.attach()
    say.say("get", p.GetConfiguration())
    say.say("same", p.SetConfiguration(1))
    say.say("second", p.SetConfiguration(2), more=2)
    say.say("get second", p.GetConfiguration())
    say.say("bulk in it", read(BULK_IN, 100))
    say.say("an endpoint of the first", report(INTERRUPT_OUT, SHORT_TEXT))
    say.say("an interface of the first", p.SetAltSetting(1, 1))
    say.say("back", p.SetConfiguration(1), more=2)
    say.say("bulk again", read(BULK_IN, 100))


@script()
def a_configuration_that_does_not_exist(say: Writer) -> None:
    say.attach()
    say.say("no such", p.SetConfiguration(7), more=2)
    say.say("get", p.GetConfiguration())
    say.say("still there", read(BULK_IN, 10))


@script()
def unconfigured(say: Writer) -> None:
    say.attach()
    say.say("none", p.SetConfiguration(0), more=2)
    say.say("get none", p.GetConfiguration())
    say.say("bulk", read(BULK_IN, 10))
    say.say("alternate", p.GetAltSetting(0))
    say.say("set alternate", p.SetAltSetting(0, 0))
    say.say("control", descriptor(1))
    say.say("none again", p.SetConfiguration(0))
    say.say("first", p.SetConfiguration(1), more=2)
    say.say("bulk again", read(BULK_IN, 10))


@script()
def alternate_settings(say: Writer) -> None:
    say.attach()
    say.say("get", p.GetAltSetting(1))
    for setting in (1, 2, 3, 0):
        say.say(f"set {setting}", p.SetAltSetting(1, setting), more=2)
    say.say("same", p.SetAltSetting(1, 0), more=2)
    say.say("no such setting", p.SetAltSetting(1, 9))
    say.say("no such interface", p.SetAltSetting(9, 0))
    say.say("get no such", p.GetAltSetting(9))
    say.say("get at last", p.GetAltSetting(1))
    say.say("the only one", p.SetAltSetting(0, 0), more=2)
    say.say("an endpoint changes its type", p.SetAltSetting(2, 1), more=2)
    say.say("is bulk no longer", read(MESSAGES_IN, 8))
    say.say("is interrupt", p.StartInterruptReceiving(MESSAGES_IN))
    say.say("stop", p.StopInterruptReceiving(MESSAGES_IN))


@script()
def setting_of_an_interface_in_use(say: Writer) -> None:
    say.attach()
    say.say("reads", Said(50, read(MESSAGES_IN, 8)), Said(51, read(MESSAGES_IN, 8)), more=-2)
    say.say("set", p.SetAltSetting(2, 1), more=4)
    say.say("receiving", p.StartInterruptReceiving(MESSAGES_IN))
    say.say("set back", p.SetAltSetting(2, 0), more=3)
    say.say("stop", p.StopInterruptReceiving(MESSAGES_IN))
    say.say("order", order(Order.SAY, 1, MESSAGES_IN))
    say.say("bulk again", read(MESSAGES_IN, 8))


@script()
def configuration_in_use(say: Writer) -> None:
    say.attach()
    say.say("receiving", p.StartInterruptReceiving(INTERRUPT_IN))
    say.say("reads", Said(50, read(MESSAGES_IN, 8)), more=-1)
    say.say("set", p.SetConfiguration(2), more=4)
    say.say("back", p.SetConfiguration(1), more=2)
    say.say("start again", p.StartInterruptReceiving(INTERRUPT_IN))


# ---- bulk


@script()
def bulk_data(say: Writer) -> None:
    say.attach()
    say.say("in", read(BULK_IN, 512))
    say.say("in, odd", read(BULK_IN, 777))
    say.say("in, one byte", read(BULK_IN, 1))
    say.say("in, nothing", read(BULK_IN, 0))
    say.say("out", write(BULK_OUT, LONG_TEXT))
    say.say("out, one byte", write(BULK_OUT, b"x"))
    say.say("out, nothing", write(BULK_OUT, b""))
    say.say("sum", sum_of(BULK_OUT))
    say.say("be short", behave(BULK_IN, Manner.SHORT))
    say.say("short", read(BULK_IN, 512))
    say.say("not short any more", read(BULK_IN, 512))
    say.say("be a babbler", behave(BULK_IN, Manner.BABBLE))
    say.say("babble", read(BULK_IN, 512))
    say.say("after the babble", read(BULK_IN, 512))
    say.say("long", read(BULK_IN, 100_000))
    say.say("longer", read(BULK_IN, 1 << 20))
    say.say("out, long", write(BULK_OUT, LONG_TEXT * 25))
    say.say("sum of all", sum_of(BULK_OUT))


@script()
def several_at_once(say: Writer) -> None:
    say.attach()
    say.say("reads", *(read(BULK_IN, size) for size in (64, 512, 13, 512)))
    say.say("writes", *(write(BULK_OUT, bytes((n,)) * 100) for n in range(8)))
    say.say("sum", sum_of(BULK_OUT))
    say.say("the same id", Said(9, read(BULK_IN, 5)), Said(9, read(BULK_IN, 5)))
    say.say("all ids", Said(0, read(BULK_IN, 5)), Said((1 << 64) - 1, read(BULK_IN, 5)))


@script()
def bulk_stalls(say: Writer) -> None:
    say.attach()
    say.say("stall", behave(BULK_IN, Manner.STALL))
    say.say("in", read(BULK_IN, 512))
    say.say("still", read(BULK_IN, 512))
    say.say("clear", control(0x02, Request.CLEAR_FEATURE, HALT, BULK_IN))
    say.say("works", read(BULK_IN, 512))
    say.say("stall out", behave(BULK_OUT, Manner.STALL))
    say.say("out", write(BULK_OUT, SHORT_TEXT))
    say.say("out still", write(BULK_OUT, SHORT_TEXT))
    say.say("out clear", control(0x02, Request.CLEAR_FEATURE, HALT, BULK_OUT))
    say.say("out works", write(BULK_OUT, SHORT_TEXT))


@script()
def bulk_on_wrong_endpoints(say: Writer) -> None:
    say.attach()
    say.say("control", read(0x80, 8))
    say.say("interrupt in", read(INTERRUPT_IN, 8))
    say.say("interrupt out", write(INTERRUPT_OUT, b"12345678"))
    say.say("none in", read(0x8F, 8))
    say.say("none out", write(0x0F, b"12345678"))
    say.say("of another setting", read(ISO_IN, 8))
    say.say("reserved bits", read(0xF1, 8))
    say.say("a stream that is not", read(BULK_IN, 512, stream=1))
    say.say("a stream that is not, out", write(BULK_OUT, b"12345678", stream=1))
    say.say("goes on", write(BULK_OUT, b"12345678"))


@script()
def bulk_too_long(say: Writer) -> None:
    say.attach()
    say.say("20 MiB", read(BULK_IN, 20 << 20))
    say.say("128 MiB", read(BULK_IN, 128 << 20))
    say.say("goes on", read(BULK_IN, 512))


# ---- interrupt


@script()
def interrupt_out(say: Writer) -> None:
    say.attach()
    say.say("a report", report(INTERRUPT_OUT, SHORT_TEXT))
    say.say("a whole packet", report(INTERRUPT_OUT, bytes(64)))
    say.say("too long", report(INTERRUPT_OUT, bytes(65)))
    say.say("nothing", report(INTERRUPT_OUT, b""))
    say.say("sum", sum_of(INTERRUPT_OUT))
    say.say("stall", behave(INTERRUPT_OUT, Manner.STALL))
    say.say("stalled", report(INTERRUPT_OUT, SHORT_TEXT))
    say.say("bulk endpoint", report(BULK_OUT, SHORT_TEXT))
    say.say("control endpoint", report(0x00, SHORT_TEXT))
    say.say("no endpoint", report(0x0F, SHORT_TEXT))


@script()
def interrupt_receiving(say: Writer) -> None:
    say.attach()
    say.say("start", p.StartInterruptReceiving(INTERRUPT_IN))
    say.say("reports", order(Order.SAY, 3, INTERRUPT_IN), more=3, unordered=True)
    say.say("more", order(Order.SAY, 7, INTERRUPT_IN), more=7, unordered=True)
    say.say("start again", p.StartInterruptReceiving(INTERRUPT_IN))
    say.say("still goes", order(Order.SAY, 1, INTERRUPT_IN), more=1, unordered=True)
    say.say("stop", p.StopInterruptReceiving(INTERRUPT_IN))
    say.say("nothing comes", order(Order.SAY, 2, INTERRUPT_IN))
    say.say("stop again", p.StopInterruptReceiving(INTERRUPT_IN))
    say.say("start anew", p.StartInterruptReceiving(INTERRUPT_IN), more=2, unordered=True)


@script()
def interrupt_receiving_where_it_can_not_be(say: Writer) -> None:
    say.attach()
    say.say("bulk", p.StartInterruptReceiving(BULK_IN))
    say.say("none", p.StartInterruptReceiving(0x8F))
    say.say("control", p.StartInterruptReceiving(0x80))
    say.say("stop bulk", p.StopInterruptReceiving(BULK_IN))
    say.say("stop none", p.StopInterruptReceiving(0x8F))
    say.say("stop control", p.StopInterruptReceiving(0x80))


@script()
def interrupt_receiving_on_an_out_endpoint(say: Writer) -> None:
    say.attach()
    say.say("start", Raw(bytes.fromhex("0f000000 01000000 0700000000000000 04")))
    say.say("goes on", descriptor(1))


@script()
def interrupt_receiving_with_trouble(say: Writer) -> None:
    say.attach()
    say.say("start", p.StartInterruptReceiving(INTERRUPT_IN))
    say.say("stall", behave(INTERRUPT_IN, Manner.STALL), fence=False)
    say.say("recovers", order(Order.SAY, 2, INTERRUPT_IN), more=2, unordered=True)
    say.say("babble", behave(INTERRUPT_IN, Manner.BABBLE), more=1, unordered=True)
    say.say("goes on", order(Order.SAY, 2, INTERRUPT_IN), more=2, unordered=True)


@script()
def interrupt_packet_to_an_in_endpoint(say: Writer) -> None:
    say.attach()
    ask = bytes.fromhex("67000000 04000000 0700000000000000 83 00 0800")
    say.say("ask", Raw(ask))
    say.say("goes on", descriptor(1))


# ---- isochronous


@script()
def iso_where_it_can_not_be(say: Writer) -> None:
    say.attach()
    say.say("not in this setting", p.StartIsoStream(ISO_IN, 8, 4))
    say.say("bulk", p.StartIsoStream(BULK_IN, 8, 4))
    say.say("interrupt", p.StartIsoStream(INTERRUPT_IN, 8, 4))
    say.say("control", p.StartIsoStream(0x80, 8, 4))
    say.say("stop none", p.StopIsoStream(ISO_IN))
    say.say("stop bulk", p.StopIsoStream(BULK_IN))
    say.say("stop interrupt", p.StopIsoStream(INTERRUPT_IN))
    say.say("packet", iso(ISO_OUT, SHORT_TEXT), more=1)
    say.say("packet to bulk", iso(BULK_OUT, SHORT_TEXT), more=1)
    say.say("packet to interrupt", iso(INTERRUPT_OUT, SHORT_TEXT), more=1)


@script()
def iso_parameters(say: Writer) -> None:
    say.attach()
    say.say("setting", p.SetAltSetting(1, 1), more=2)
    for packets, urbs in ((0, 4), (8, 0), (33, 4), (8, 17), (255, 255)):
        say.say(f"{packets} packets, {urbs} URBs", p.StartIsoStream(ISO_IN, packets, urbs))
        say.say(f"{packets} packets, {urbs} URBs, out", p.StartIsoStream(ISO_OUT, packets, urbs))
    for packets, urbs in ((1, 1), (32, 16)):
        say.say(f"{packets} packets, {urbs} URBs", p.StartIsoStream(ISO_IN, packets, urbs))
        say.say(f"{packets} packets, {urbs} URBs, stop", p.StopIsoStream(ISO_IN))
        say.say(f"{packets} packets, {urbs} URBs, out", p.StartIsoStream(ISO_OUT, packets, urbs))
        say.say(f"{packets} packets, {urbs} URBs, out, stop", p.StopIsoStream(ISO_OUT))
    say.say("running", p.StartIsoStream(ISO_OUT, 8, 4))
    say.say("33 packets while it runs", p.StartIsoStream(ISO_OUT, 33, 4))


@script()
def iso_in(say: Writer) -> None:
    say.attach()
    say.say("setting", p.SetAltSetting(1, 1), more=2)
    say.say("start", p.StartIsoStream(ISO_IN, 8, 4), flow=40)
    say.say("twice", p.StartIsoStream(ISO_IN, 8, 4))
    say.say("stop", p.StopIsoStream(ISO_IN))
    say.say("quiet", descriptor(1), flow=ALL_OF)
    say.say("stop again", p.StopIsoStream(ISO_IN))
    say.say("a packet out on it", iso(ISO_OUT, SHORT_TEXT), more=1)
    say.say("smaller", p.SetAltSetting(1, 2), more=2)
    say.say("start smaller", p.StartIsoStream(ISO_IN, 4, 2), flow=12)
    say.say("setting while it runs", p.SetAltSetting(1, 0), more=2)
    say.say("nothing more", descriptor(1), flow=ALL_OF)


@script()
def iso_in_with_trouble(say: Writer) -> None:
    say.attach()
    say.say("setting", p.SetAltSetting(1, 1), more=2)
    say.say("fails", behave(ISO_IN, Manner.FAIL))
    say.say("start", p.StartIsoStream(ISO_IN, 8, 4), flow=24)
    say.say("stop", p.StopIsoStream(ISO_IN))
    say.say("setting again", p.SetAltSetting(1, 1), more=2)
    say.say("babbles", behave(ISO_IN, Manner.BABBLE))
    say.say("start again", p.StartIsoStream(ISO_IN, 8, 4), flow=24)
    say.say("stop again", p.StopIsoStream(ISO_IN))
    say.say("setting once more", p.SetAltSetting(1, 1), more=2)
    say.say("short", behave(ISO_IN, Manner.SHORT))
    say.say("start short", p.StartIsoStream(ISO_IN, 2, 2), flow=10)


@script()
def iso_out(say: Writer) -> None:
    say.attach()
    say.say("setting", p.SetAltSetting(1, 1), more=2)
    say.say("start", p.StartIsoStream(ISO_OUT, 4, 4))
    say.say("too little to begin", *(iso(ISO_OUT, bytes((n,)) * 100) for n in range(7)))
    say.say("none of it yet", sum_of(ISO_OUT))
    say.say("a packet that is too long", iso(ISO_OUT, bytes(193)), more=1)
    say.say("more", *(iso(ISO_OUT, bytes((n,)) * 100) for n in range(7, 16)))
    say.say("twice", p.StartIsoStream(ISO_OUT, 4, 4))
    say.say("all of it", Act.SETTLE, sum_of(ISO_OUT))
    say.say("stop", p.StopIsoStream(ISO_OUT))
    say.say("a packet too late", iso(ISO_OUT, SHORT_TEXT), more=1)


@script()
def one_transfer_of_one_packet_out(say: Writer) -> None:
    """Half of one is none: there is nothing to wait for, nor anything to start."""
    say.attach()
    say.say("setting", p.SetAltSetting(1, 1), more=2)
    say.say("start", p.StartIsoStream(ISO_OUT, 1, 1))
    say.say("packets", *(iso(ISO_OUT, bytes((n,)) * 10) for n in range(5)))
    say.say("stop", p.StopIsoStream(ISO_OUT))
    say.say("goes on", descriptor(1))


# ---- bulk receiving and streams


@script()
def bulk_receiving(say: Writer) -> None:
    say.attach()
    say.say("start", p.StartBulkReceiving(0, 512, MESSAGES_IN, 4))
    say.say("messages", order(Order.SAY, 3, MESSAGES_IN), flow=3, unordered=True)
    say.say("more", order(Order.SAY, 6, MESSAGES_IN), flow=6, unordered=True)
    say.say("twice", p.StartBulkReceiving(0, 512, MESSAGES_IN, 4))
    say.say("stop", p.StopBulkReceiving(0, MESSAGES_IN))
    say.say("quiet", order(Order.SAY, 1, MESSAGES_IN), flow=ALL_OF)
    say.say("the one left", read(MESSAGES_IN, 512))
    say.say("stop again", p.StopBulkReceiving(0, MESSAGES_IN))
    say.say("anew", p.StartBulkReceiving(0, 1024, MESSAGES_IN, 1))
    say.say("one more", order(Order.SAY, 1, MESSAGES_IN), flow=1, unordered=True)


@script()
def bulk_receiving_parameters(say: Writer) -> None:
    say.attach()
    for size, transfers in ((0, 4), (100, 4), (512, 0), (512, 17), (512, 255)):
        say.say(f"{transfers} of {size}", p.StartBulkReceiving(0, size, MESSAGES_IN, transfers))
        say.say(f"{transfers} of {size}, stop", p.StopBulkReceiving(0, MESSAGES_IN))
    say.say("interrupt", p.StartBulkReceiving(0, 64, INTERRUPT_IN, 4))
    say.say("none", p.StartBulkReceiving(0, 512, 0x8F, 4))
    say.say("control", p.StartBulkReceiving(0, 512, 0x80, 4))
    say.say("a stream", p.StartBulkReceiving(3, 512, MESSAGES_IN, 4))
    say.say("stop the stream", p.StopBulkReceiving(3, MESSAGES_IN))
    say.say("stop interrupt", p.StopBulkReceiving(0, INTERRUPT_IN))
    say.say("stop none", p.StopBulkReceiving(0, 0x8F))


@script(resets=True)
def bulk_receiving_with_trouble(say: Writer) -> None:
    say.attach()
    say.say("start", p.StartBulkReceiving(0, 512, MESSAGES_IN, 4))
    say.say("stall", behave(MESSAGES_IN, Manner.STALL), fence=False)
    say.say("recovers", order(Order.SAY, 2, MESSAGES_IN), flow=2, unordered=True)
    say.say("a transfer beside it", read(BULK_IN, 100))
    say.say("reset", RESET, more=1)
    say.say("start again", p.StartBulkReceiving(0, 512, MESSAGES_IN, 4))


@script(speed=Speed.SUPER)
def streams_that_the_controller_has_not(say: Writer) -> None:
    say.attach()
    mask = 1 << 2 | 1 << (16 + 1)
    say.say("alloc", p.AllocBulkStreams(mask, 4))
    say.say("alloc none", p.AllocBulkStreams(mask, 0))
    say.say("alloc too many", p.AllocBulkStreams(mask, 0xFFFF_FFFF))
    say.say("alloc on nothing", p.AllocBulkStreams(0, 4))
    say.say("alloc on an interrupt endpoint", p.AllocBulkStreams(1 << (16 + 3), 4))
    say.say("free", p.FreeBulkStreams(mask))
    say.say("free nothing", p.FreeBulkStreams(0))
    say.say("on a stream", read(BULK_IN, 512, stream=1))
    say.say("without", write(BULK_OUT, SHORT_TEXT))


@script()
def streams_on_a_device_without(say: Writer) -> None:
    say.attach()
    mask = 1 << 2 | 1 << (16 + 1)
    say.say("alloc", p.AllocBulkStreams(mask, 4))
    say.say("free", p.FreeBulkStreams(mask))
    say.say("bulk", read(BULK_IN, 512))


# ---- cancel


@script()
def cancels(say: Writer) -> None:
    say.attach()
    say.say("unknown", Said(99, CANCEL))
    say.say("finished", Said(40, read(BULK_IN, 8)))
    say.say("finished, cancelled", Said(40, CANCEL))
    say.say("waits", Said(41, read(MESSAGES_IN, 8)), more=-1)
    say.say("cancelled", Said(41, CANCEL), more=1)
    say.say("twice", Said(41, CANCEL))
    say.say("id again", Said(41, read(MESSAGES_IN, 8)), order(Order.SAY, 1, MESSAGES_IN), unordered=True)
    say.say("two of one id", Said(42, read(MESSAGES_IN, 8)), Said(42, read(MESSAGES_IN, 8)), more=-2)
    say.say("one cancelled", Said(42, CANCEL), more=1)
    say.say("the other", Said(42, CANCEL), more=1)
    say.say("at once", Said(43, read(MESSAGES_IN, 8)), Said(43, CANCEL))
    say.say("out", behave(BULK_OUT, Manner.WAIT), Said(44, write(BULK_OUT, SHORT_TEXT)), more=-1)
    say.say("out cancelled", Said(44, CANCEL), more=1)
    say.say("interrupt", behave(INTERRUPT_OUT, Manner.WAIT), Said(45, report(INTERRUPT_OUT, SHORT_TEXT)), more=-1)
    say.say("interrupt cancelled", Said(45, CANCEL), more=1)
    say.say("middle one of three", *(Said(50 + n, read(MESSAGES_IN, 8)) for n in range(3)), Said(51, CANCEL), more=-2)
    say.say("the others", order(Order.SAY, 2, MESSAGES_IN), more=2, unordered=True)


# ---- reset


@script(resets=True)
def resets(say: Writer) -> None:
    say.attach()
    say.say("store", order(Order.STORE, data=SHORT_TEXT))
    say.say("reset", RESET)
    say.say("again", RESET, RESET)
    say.say("works", asked(Order.STORE))
    say.say("configuration", p.SetConfiguration(2), more=2)
    say.say("reset configured", RESET)
    say.say("get", p.GetConfiguration(), control(0x80, Request.GET_CONFIGURATION, data=1))
    say.say("back", p.SetConfiguration(1), more=2)
    say.say("setting", p.SetAltSetting(1, 1), more=2)
    say.say("reset set", RESET)
    say.say("get set", p.GetAltSetting(1), control(0x81, Request.GET_INTERFACE, index=1, data=1))


@script()
def a_reset_of_a_device_that_does_not_bear_it(say: Writer) -> None:
    say.attach()
    say.say("behave", behave(BULK_IN, Manner.SHORT))
    say.say("reset", RESET)
    say.say("was not", read(BULK_IN, 100))


@script(resets=True)
def reset_with_work_under_way(say: Writer) -> None:
    say.attach()
    say.say("waits", Said(50, read(MESSAGES_IN, 8)), more=-1)
    say.say("receiving", p.StartInterruptReceiving(INTERRUPT_IN))
    say.say("setting", p.SetAltSetting(1, 1), more=2)
    say.say("iso", p.StartIsoStream(ISO_IN, 8, 4), flow=8)
    say.say("reset", RESET, more=3, unordered=True)
    say.say("cancelled late", Said(50, CANCEL))
    say.say("start again", p.StartInterruptReceiving(INTERRUPT_IN))
    say.say("receives", order(Order.SAY, 1, INTERRUPT_IN), more=1, unordered=True)
    say.say("start iso again", p.StartIsoStream(ISO_IN, 8, 4))
    say.say("setting again", p.SetAltSetting(1, 1), more=2)
    say.say("starts", p.StartIsoStream(ISO_IN, 8, 4), flow=8)


# ---- filters, and the end


ALLOW, DENY = p.FilterFilter("-1,-1,-1,-1,1"), p.FilterFilter("-1,-1,-1,-1,0")


@script()
def filters(say: Writer) -> None:
    say.attach()
    say.say("allowed", ALLOW)
    say.say("goes on", descriptor(1))


@script()
def a_filter_that_denies(say: Writer) -> None:
    say.attach()
    say.say("denied", DENY)
    say.say("asks all the same", descriptor(1))


@script()
def rejected(say: Writer) -> None:
    say.attach()
    say.say("rejected", p.FilterReject(), more=1)
    say.say("asks all the same", descriptor(1), read(BULK_IN, 8), report(INTERRUPT_OUT, b"x"))
    say.say("more", p.SetConfiguration(1), p.GetConfiguration(), p.SetAltSetting(0, 0), p.GetAltSetting(0))
    say.say("streams", p.StartInterruptReceiving(INTERRUPT_IN), p.StartIsoStream(ISO_IN, 8, 4))
    say.say("stop", p.StopInterruptReceiving(INTERRUPT_IN), p.StopIsoStream(ISO_IN), more=-2)
    say.say("reset", RESET)
    say.say("iso", iso(ISO_OUT, SHORT_TEXT))
    say.say("rejected again", p.FilterReject())
    say.say("acknowledged", DISCONNECT_ACK, more=1, fence=False)  # a question right behind might still be answered


@script()
def an_acknowledgement_of_nothing(say: Writer) -> None:
    say.attach()
    say.say("acknowledged", DISCONNECT_ACK)
    say.say("goes on", descriptor(1))


@script()
def unplugged(say: Writer) -> None:
    say.attach()
    say.say("gone", Act.UNPLUG, more=1, fence=False)


@script()
def unplugged_with_work_under_way(say: Writer) -> None:
    say.attach()
    say.say("receiving", p.StartInterruptReceiving(INTERRUPT_IN))
    say.say("waits", Said(50, read(MESSAGES_IN, 8)), Said(51, read(MESSAGES_IN, 8)), more=-2)
    say.say("gone", Act.UNPLUG, more=3, fence=False, unordered=True)


# ---- what is not usbredir


@script()
def nonsense(say: Writer) -> None:
    say.attach()
    say.say("unknown type", Raw(bytes.fromhex("63000000 04000000 0700000000000000 00112233")))
    say.say("goes on", descriptor(1))


@script()
def wrong_direction(say: Writer) -> None:
    say.attach()
    say.say("device_disconnect", Raw(bytes.fromhex("02000000 00000000 0700000000000000")))
    say.say("goes on", descriptor(1))


@script()
def wrong_length(say: Writer) -> None:
    say.attach()
    say.say("a byte too many", Raw(bytes.fromhex("07000000 01000000 0700000000000000 00")))
    say.say("goes on", descriptor(1))


@script()
def data_of_another_length_than_said(say: Writer) -> None:
    say.attach()
    say.say("control", Raw(bytes.fromhex("64000000 0b000000 0700000000000000 00 09 40 00 0000 0000 0800 55")))
    say.say("goes on", descriptor(1))
