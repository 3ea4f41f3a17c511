"""A guest's bulk streams on the endpoints of the UAS disk."""

from tests.fakes.device import UAS_IN, UAS_OUT, UAS_STATUS, UAS_STREAMS
from tests.fakes.guest import Rig
from usbbridge.usbredir.packets import AllocBulkStreams, BulkStreamsStatus, Packet, SetAltSetting
from usbbridge.usbredir.proto import Status as RedirStatus
from usbbridge.usbredir.proto import endpoint_index

SUCCESS, INVAL, IOERROR = RedirStatus.SUCCESS, RedirStatus.INVAL, RedirStatus.IOERROR


def mask(*endpoints: int) -> int:
    return sum(1 << endpoint_index(endpoint) for endpoint in endpoints)


ALL = mask(UAS_STATUS, UAS_IN, UAS_OUT)
OFFERED = {UAS_STATUS: UAS_STREAMS, UAS_IN: UAS_STREAMS, UAS_OUT: UAS_STREAMS}
TRIED = [UAS_STREAMS, UAS_OUT, UAS_IN, UAS_STATUS]
"What was asked of the device: so many streams on these endpoints."


def uas(rig: Rig) -> list[tuple[int, Packet]]:
    """Select the setting that has streams."""
    return rig.ask(SetAltSetting(0, 1))


def with_streams(rig: Rig, count: int = 8) -> None:
    uas(rig)
    assert rig.ask(AllocBulkStreams(ALL, count)) == [(0, BulkStreamsStatus(ALL, count, SUCCESS))]
