"""The printer through the engine of emulated devices: jobs, status, paper, resets."""

import hashlib
import os

import pytest

from tests.unit.lab.usb_host import Host
from tools.lab.devices import printer
from tools.lab.devices.printer import ENDLESS, EXIT_LANGUAGE, GET_JOB, JOB, MAX_LINES, SET_PAPER, Jobs
from usbbridge.backend.base import Status
from usbbridge.errors import UsageError
from usbbridge.usb.ch9 import Speed

OUT, IN = 0x01, 0x82
READY, OUT_OF_PAPER = 0x18, 0x30


class PrinterHost(Host):
    """A host whose printer is plugged in, with the setting that answers."""

    def __init__(self, speed: Speed = Speed.HIGH, **options: str) -> None:
        self.printer = printer.create(speed, options)
        super().__init__(self.printer)
        self.device.set_interface(0, 1)

    def status(self) -> int:
        return self.control(0xA1, 1, data=1).data[0]

    def job(self) -> tuple[int, int, bytes]:
        return JOB.unpack(self.control(*GET_JOB, data=JOB.size).data)

    def paper(self, kibibytes: int) -> None:
        assert self.control(*SET_PAPER, value=kibibytes).status is Status.COMPLETED


@pytest.fixture
def host() -> PrinterHost:
    return PrinterHost()


def said(number: int, data: bytes) -> bytes:
    return f"JOB {number} LENGTH {len(data)} SHA256 {hashlib.sha256(data).hexdigest()}\r\n".encode()


@pytest.mark.parametrize(("speed", "packet"), [(Speed.FULL, 64), (Speed.HIGH, 512)])
def test_it_has_a_setting_each_for_one_way_and_both_ways(speed, packet):
    one, both = PrinterHost(speed).device.configuration().interfaces
    assert [(s.alternate, s.class_, s.subclass, s.protocol) for s in (one, both)] == [(0, 7, 1, 1), (1, 7, 1, 2)]
    assert [end.address for end in one.endpoints] == [OUT]
    assert [(end.address, end.packet_bytes) for end in both.endpoints] == [(OUT, packet), (IN, packet)]


def test_its_device_id_begins_with_its_length():
    found = PrinterHost(serial="P7").control(0xA1, 0, index=0x0001, data=1024).data
    assert int.from_bytes(found[:2]) == len(found)
    assert b"SN:P7;" in found
    assert PrinterHost().control(0xA1, 0, data=2).data[0] == 0  # a host may ask for the length alone


def test_a_job_is_confirmed_on_both_ways(host):
    data = os.urandom(5000).replace(b"\x1b", b".")
    assert host.write(OUT, data) is Status.COMPLETED
    assert host.read(IN, 1024) is None
    host.write(OUT, EXIT_LANGUAGE)
    assert host.read(IN, 1024) == said(1, data)
    assert host.job() == (1, len(data), hashlib.sha256(data).digest())


def test_a_line_is_read_in_parts(host):
    host.write(OUT, b"x" + EXIT_LANGUAGE)
    whole = said(1, b"x")
    assert [host.read(IN, 60) for _ in range(2)] == [whole[:60], whole[60:]]
    assert host.read(IN, 60) is None


def test_who_waits_for_a_line_gets_it(host):
    waiting = host.submit(IN, 1024)
    assert waiting.done is None
    host.write(OUT, b"x" + EXIT_LANGUAGE)
    assert waiting.done.data == said(1, b"x")


def test_the_oldest_lines_are_lost_to_a_host_that_never_reads(host):
    for number in range(MAX_LINES + 2):
        host.write(OUT, bytes((number,)) + EXIT_LANGUAGE)
    assert host.read(IN, 1024) == said(3, b"\x02")


def test_without_paper_data_wait_and_the_status_says_so(host):
    assert host.status() == READY
    host.paper(1)
    assert host.write(OUT, bytes(1000)) is Status.COMPLETED
    waiting = host.submit(OUT, bytes(100) + EXIT_LANGUAGE)
    assert waiting.done is None
    assert host.status() == OUT_OF_PAPER
    host.paper(ENDLESS)
    assert waiting.done.status is Status.COMPLETED
    assert host.status() == READY
    assert host.read(IN, 1024) == said(1, bytes(1100))


@pytest.mark.parametrize("kind", [0x21, 0x23])
def test_a_soft_reset_drops_what_is_not_printed(host, kind):
    host.write(OUT, b"done" + EXIT_LANGUAGE + b"never to be")
    assert host.control(kind, 2).status is Status.COMPLETED
    assert host.read(IN, 1024) is None
    host.write(OUT, b"next" + EXIT_LANGUAGE)
    assert host.read(IN, 1024) == said(2, b"next")


def test_a_port_reset_drops_it_too_and_so_does_the_other_setting(host):
    host.write(OUT, b"never")
    host.device.reset()
    host.write(OUT, b"never")
    host.device.set_interface(0, 0)
    host.write(OUT, b"next" + EXIT_LANGUAGE)
    assert host.job() == (1, 4, hashlib.sha256(b"next").digest())


def test_other_requests_are_refused(host):
    assert host.control(0xA1, 3, data=1).status is Status.STALL
    assert host.control(0xC0, 9, data=1).status is Status.STALL
    assert host.control(0x40, 1).status is Status.STALL


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_jobs_are_told_apart_however_their_bytes_come(step):
    first, second = b"one\x1b%-1234x\x1b\x1b%", b"\x1b%-12345\x1b%-12345Y"
    stream = EXIT_LANGUAGE + first + EXIT_LANGUAGE * 2 + second + EXIT_LANGUAGE + b"rest"
    jobs, found = Jobs(), []
    for start in range(0, len(stream), step):
        found += jobs.feed(stream[start : start + step])
    assert [(job.number, job.length, job.digest) for job in found] == [
        (1, len(first), hashlib.sha256(first).digest()),
        (2, len(second), hashlib.sha256(second).digest()),
    ]


@pytest.mark.parametrize(("speed", "options"), [(Speed.SUPER, {}), (Speed.HIGH, {"x": ""})])
def test_a_printer_that_cannot_be(speed, options):
    with pytest.raises(UsageError):
        printer.create(speed, options)
