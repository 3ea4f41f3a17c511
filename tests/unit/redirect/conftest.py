from collections.abc import Iterator

import pytest

from tests.fakes.device import FakeDevice
from tests.fakes.guest import Rig
from usbbridge.usbredir.state import State


@pytest.fixture
def device() -> FakeDevice:
    return FakeDevice()


@pytest.fixture(params=[1 << 30, 1], ids=["whole", "byte by byte"])
def rig(request: pytest.FixtureRequest, device: FakeDevice) -> Iterator[Rig]:
    """The device attached to a guest. In the end, with the host closed, nothing may be left of any transfer."""
    rig = Rig(device, step=request.param).attach()
    yield rig
    if rig.host.codec.state is not State.CLOSED:
        rig.host.disconnect()
    for transfer in [t for t in device.flying if t in device.cancelled]:
        device.finish(transfer)
    rig.device.reap()
    rig.host.sent(rig.take_outbox()[1])
    rig.host.close()
    assert rig.host.pending_bytes == 0
    assert device.outstanding == 0
