"""Configurations, alternate settings, resets, the end: what the guest is told, in which order, and what is done."""

import pytest

from tests.fakes.device import BULK_IN, BULK_OUT, INTERRUPT_OUT, ISO_IN, ISO_OUT, FakeDevice
from tests.fakes.guest import Rig
from usbbridge.errors import DeviceError, DeviceLostError, NotPermittedError, RemoteProtocolError
from usbbridge.redirect.quirks import NO_RESET
from usbbridge.usb.descriptors import MAX_INTERFACES, Configuration, Interface
from usbbridge.usbredir.packets import (
    AltSettingStatus,
    BulkPacket,
    ConfigurationStatus,
    DeviceDisconnect,
    DeviceDisconnectAck,
    EpInfo,
    GetAltSetting,
    GetConfiguration,
    InterfaceInfo,
    Packet,
    Reset,
    SetAltSetting,
    SetConfiguration,
    StartBulkReceiving,
    StartInterruptReceiving,
    StartIsoStream,
)
from usbbridge.usbredir.proto import Cap, EndpointType, Status

SUCCESS, STALL, INVAL, IOERROR, CANCELLED = Status.SUCCESS, Status.STALL, Status.INVAL, Status.IOERROR, Status.CANCELLED


def kinds(answers: list[tuple[int, Packet]]) -> list[type]:
    return [type(packet) for _, packet in answers]


def in_use(rig: Rig) -> None:
    """Bulk both ways and an interrupt OUT in flight, with ids 1 to 3."""
    rig.guest.bulk(1, BULK_IN, 512)
    rig.guest.bulk(2, BULK_OUT, data=b"x")
    rig.guest.interrupt(3, INTERRUPT_OUT, b"x")
    assert rig.answers() == []


# ---- set_configuration


def test_a_new_configuration_is_described_before_the_status(rig: Rig, device: FakeDevice) -> None:
    answers = rig.ask(SetConfiguration(2), 7)
    assert kinds(answers) == [InterfaceInfo, EpInfo, ConfigurationStatus]
    assert answers[-1] == (7, ConfigurationStatus(SUCCESS, 2))
    assert device.calls("set_configuration") == [[2]]
    types = {entry.type for entry in answers[1][1].endpoints}
    assert types == {EndpointType.CONTROL, EndpointType.BULK, EndpointType.INVALID}
    assert rig.ask(GetConfiguration(), 8) == [(8, ConfigurationStatus(SUCCESS, 2))]


def test_the_active_configuration_is_set_without_a_word_to_the_device(rig: Rig, device: FakeDevice) -> None:
    assert rig.ask(SetConfiguration(1), 7) == [(7, ConfigurationStatus(SUCCESS, 1))]
    assert device.calls("set_configuration") == []


def test_a_device_is_unconfigured_and_configured_again(rig: Rig, device: FakeDevice) -> None:
    answers = rig.ask(SetConfiguration(0), 7)
    assert answers[0][1] == InterfaceInfo(())
    assert answers[-1] == (7, ConfigurationStatus(SUCCESS, 0))
    rig.guest.bulk(1, BULK_IN, 512)
    assert rig.answers() == [(1, BulkPacket(BULK_IN, INVAL, 0, 0))]
    assert rig.ask(SetConfiguration(1), 8)[-1] == (8, ConfigurationStatus(SUCCESS, 1))
    rig.guest.bulk(1, BULK_IN, 512)
    assert rig.answers() == []


def test_a_configuration_that_fails_leaves_the_old_one_in_force(rig: Rig, device: FakeDevice) -> None:
    device.failures["set_configuration"] = DeviceError("stalled")
    assert rig.ask(SetConfiguration(9), 7) == [(7, ConfigurationStatus(STALL, 1))]
    assert device.calls("claim") == [[], []]
    rig.guest.bulk(1, BULK_IN, 512)
    assert rig.answers() == []


def test_a_configuration_that_fails_half_way_is_told_as_it_is(
    rig: Rig, device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def set_and_fail(value: int) -> None:
        device.active = device.configurations[1]
        raise DeviceError("an interface of the new configuration could not be claimed")

    monkeypatch.setattr(device, "set_configuration", set_and_fail)
    answers = rig.ask(SetConfiguration(2), 7)
    assert kinds(answers) == [InterfaceInfo, EpInfo, ConfigurationStatus]
    assert answers[-1] == (7, ConfigurationStatus(STALL, 2))


@pytest.mark.parametrize("error", [DeviceLostError("gone"), NotPermittedError("no")])
def test_a_device_that_is_lost_while_it_is_configured_ends_the_session(
    rig: Rig, device: FakeDevice, error: Exception
) -> None:
    device.failures["set_configuration"] = error
    rig.guest.say(SetConfiguration(2), 7)
    with pytest.raises(type(error)) as caught:
        rig.settle()
    assert caught.value is error
    rig.to_guest()
    assert rig.guest.ear.take() == [(7, ConfigurationStatus(IOERROR, 1))]


def test_what_is_in_flight_is_cancelled_before_a_configuration_is_set(rig: Rig, device: FakeDevice) -> None:
    in_use(rig)
    rig.ask(StartInterruptReceiving(0x83))
    answers = rig.ask(SetConfiguration(2), 7)
    assert [(packet_id, packet.status) for packet_id, packet in answers[:4]] == [
        *((n, CANCELLED) for n in (1, 2, 3)),
        (0, STALL),
    ]
    assert device.flying == []


def test_a_configuration_is_not_set_while_a_cancelled_transfer_does_not_come_back(
    rig: Rig, device: FakeDevice
) -> None:
    in_use(rig)
    device.keeps_cancelled = True
    assert rig.ask(SetConfiguration(2), 7)[-1] == (7, ConfigurationStatus(IOERROR, 1))
    assert rig.ask(SetAltSetting(1, 1), 8)[-1] == (8, AltSettingStatus(IOERROR, 1, 0))
    assert device.calls("set_configuration") == device.calls("set_interface") == []


def test_a_device_may_have_as_many_interfaces_as_the_protocol_has_room_for() -> None:
    interfaces = tuple(Interface(n, 0, 255, n, 0, 0, ()) for n in range(MAX_INTERFACES))
    rig = Rig(FakeDevice(Configuration(1, 0x80, 50, 0, interfaces)))
    rig.host.start()
    (info,) = (packet for _, packet in rig.answers() if isinstance(packet, InterfaceInfo))
    assert [(entry.interface, entry.subclass) for entry in info.interfaces] == [(n, n) for n in range(32)]
    last = MAX_INTERFACES - 1
    assert rig.ask(SetAltSetting(last, 0), 7)[-1] == (7, AltSettingStatus(SUCCESS, last, 0))


def test_a_configuration_of_more_interfaces_ends_the_session_with_a_reason(rig: Rig, device: FakeDevice) -> None:
    device.failures |= dict.fromkeys(("set_configuration", "claim"), DeviceError("it has 33 interfaces"))
    rig.guest.say(SetConfiguration(2), 7)
    with pytest.raises(DeviceError, match="it has 33 interfaces"):
        rig.settle()
    rig.to_guest()
    assert rig.guest.ear.take() == [(7, ConfigurationStatus(IOERROR, 1))]


def test_interfaces_are_known_by_their_numbers_not_by_their_places() -> None:
    interfaces = tuple(Interface(number, alternate, 255, 0, 0, 0, ()) for number, alternate in ((7, 0), (3, 0), (3, 5)))
    rig = Rig(FakeDevice(Configuration(1, 0x80, 50, 0, interfaces))).attach()
    assert rig.ask(SetAltSetting(3, 5), 1)[-1] == (1, AltSettingStatus(SUCCESS, 3, 5))
    assert rig.ask(GetAltSetting(7), 2) == [(2, AltSettingStatus(SUCCESS, 7, 0))]
    assert rig.ask(SetAltSetting(0, 0), 3) == [(3, AltSettingStatus(INVAL, 0, 255))]
    assert rig.ask(SetAltSetting(3, 1), 4) == [(4, AltSettingStatus(INVAL, 3, 5))]


def test_an_unconfigured_device_has_its_default_pipe_and_can_be_configured() -> None:
    device = FakeDevice()
    device.active = None
    rig = Rig(device).attach()
    assert rig.ask(GetConfiguration(), 1) == [(1, ConfigurationStatus(SUCCESS, 0))]
    assert rig.ask(SetConfiguration(0), 2) == [(2, ConfigurationStatus(SUCCESS, 0))]
    assert device.calls("set_configuration") == []
    rig.guest.control(3, 0x80, 6, 0x0100, 0, 18)
    rig.settle()
    device.finish(device.flying[0], data=b"descriptor")
    assert rig.answers()[0][0] == 3
    assert rig.ask(SetConfiguration(1), 4)[-1] == (4, ConfigurationStatus(SUCCESS, 1))
    rig.guest.bulk(5, BULK_IN, 512)
    assert rig.answers() == []


# ---- alternate settings


def test_a_new_setting_is_described_before_the_status(rig: Rig, device: FakeDevice) -> None:
    answers = rig.ask(SetAltSetting(1, 1), 7)
    assert kinds(answers) == [InterfaceInfo, EpInfo, AltSettingStatus]
    assert answers[-1] == (7, AltSettingStatus(SUCCESS, 1, 1))
    assert device.calls("set_interface") == [[1, 1]]
    assert EndpointType.INTERRUPT not in {entry.type for entry in answers[1][1].endpoints}
    assert rig.ask(GetAltSetting(1), 8) == [(8, AltSettingStatus(SUCCESS, 1, 1))]
    assert rig.ask(GetAltSetting(0), 9) == [(9, AltSettingStatus(SUCCESS, 0, 0))]


def test_the_endpoints_of_a_setting_come_and_go_with_it(rig: Rig, device: FakeDevice) -> None:
    rig.ask(SetAltSetting(1, 1))
    rig.guest.interrupt(1, INTERRUPT_OUT, b"x")
    assert [packet.status for _, packet in rig.answers()] == [INVAL]
    rig.ask(SetAltSetting(1, 0))
    rig.guest.interrupt(2, INTERRUPT_OUT, b"x")
    assert rig.answers() == []
    assert len(device.flying) == 1


def test_a_setting_is_set_anew_even_if_it_is_the_current_one(rig: Rig, device: FakeDevice) -> None:
    assert rig.ask(SetAltSetting(0, 0), 7)[-1] == (7, AltSettingStatus(SUCCESS, 0, 0))
    assert device.calls("set_interface") == [[0, 0]]


@pytest.mark.parametrize(("interface", "alternate", "current"), [(9, 0, 255), (1, 2, 0), (255, 255, 255)])
def test_a_setting_that_does_not_exist_is_invalid(rig: Rig, interface: int, alternate: int, current: int) -> None:
    assert rig.ask(SetAltSetting(interface, alternate), 7) == [(7, AltSettingStatus(INVAL, interface, current))]


def test_the_setting_of_an_interface_that_does_not_exist_is_255(rig: Rig) -> None:
    assert rig.ask(GetAltSetting(9), 7) == [(7, AltSettingStatus(INVAL, 9, 255))]


def test_a_setting_that_fails_leaves_the_old_one_in_force(rig: Rig, device: FakeDevice) -> None:
    device.failures["set_interface"] = DeviceError("stalled")
    assert rig.ask(SetAltSetting(1, 1), 7) == [(7, AltSettingStatus(STALL, 1, 0))]


def test_only_the_interfaces_own_transfers_are_cancelled_before_its_setting(rig: Rig, device: FakeDevice) -> None:
    in_use(rig)
    answers = rig.ask(SetAltSetting(1, 1), 7)
    assert [packet_id for packet_id, _ in answers] == [3, 0, 0, 7]
    assert [t.id for t in device.flying] == [1, 2]


def test_a_new_configuration_starts_with_the_first_settings(rig: Rig) -> None:
    rig.ask(SetAltSetting(1, 1))
    rig.ask(SetConfiguration(2))
    rig.ask(SetConfiguration(1))
    assert rig.ask(GetAltSetting(1), 8) == [(8, AltSettingStatus(SUCCESS, 1, 0))]


# ---- reset


def test_resets_of_a_device_that_was_not_used_are_skipped(rig: Rig, device: FakeDevice) -> None:
    assert rig.ask(Reset()) == rig.ask(Reset()) == []
    assert device.calls("reset") == [[]], "the one before the announcement"


@pytest.mark.parametrize(
    "use",
    [
        lambda guest: guest.control(1, 0x80, 6, 0x0100, 0, 18),
        lambda guest: guest.control(1, 0x02, 1, 0, BULK_IN, 0),
        lambda guest: guest.bulk(1, BULK_IN, 512),
        lambda guest: guest.interrupt(1, INTERRUPT_OUT, b"x"),
        lambda guest: guest.say(SetConfiguration(2)),
        lambda guest: guest.say(SetAltSetting(1, 1)),
        lambda guest: guest.say(StartInterruptReceiving(0x83)),
        lambda guest: guest.say(StartIsoStream(ISO_IN, 1, 1)),
        lambda guest: guest.say(StartIsoStream(ISO_OUT, 1, 1)),
        lambda guest: guest.say(StartBulkReceiving(0, 512, BULK_IN, 1)),
    ],
    ids=[
        *("control", "clear halt", "bulk", "interrupt", "configuration", "setting"),
        *("receiving", "iso in", "iso out", "bulk receiving"),
    ],
)
def test_whatever_was_done_to_the_device_makes_the_next_reset_real(rig: Rig, device: FakeDevice, use: object) -> None:
    use(rig.guest)
    rig.settle()
    rig.ask(Reset())
    rig.ask(Reset())
    assert device.calls("reset") == [[], []]
    assert rig.host.resets == 1


def test_a_reset_cancels_everything_and_has_no_answer_itself(rig: Rig, device: FakeDevice) -> None:
    in_use(rig)
    answers = rig.ask(Reset())
    assert [(packet_id, packet.status) for packet_id, packet in answers] == [(n, CANCELLED) for n in (1, 2, 3)]
    assert device.flying == []
    assert rig.host.pending_bytes == 0


def test_after_a_reset_all_interfaces_are_in_their_first_settings(rig: Rig, device: FakeDevice) -> None:
    rig.ask(SetAltSetting(1, 1))
    answers = rig.ask(Reset())
    assert kinds(answers) == [InterfaceInfo, EpInfo]
    assert answers[1][1].endpoints[4].type == EndpointType.INTERRUPT
    assert device.log[-1] == ("reset",)
    assert rig.ask(GetAltSetting(1), 8) == [(8, AltSettingStatus(SUCCESS, 1, 0))]
    rig.guest.interrupt(1, INTERRUPT_OUT, b"x")
    assert rig.answers() == []


def test_the_guest_is_told_of_its_settings_also_if_a_transfer_does_not_come_back(rig: Rig, device: FakeDevice) -> None:
    rig.ask(SetAltSetting(1, 1))
    device.keeps_cancelled = True
    rig.guest.bulk(1, BULK_IN, 512)
    assert {InterfaceInfo, EpInfo} < set(kinds(rig.ask(Reset())))
    assert rig.ask(GetAltSetting(1), 8) == [(8, AltSettingStatus(SUCCESS, 1, 0))]


@pytest.fixture
def spared(device: FakeDevice) -> Rig:
    """A device that does not bear a reset."""
    rig = Rig(device, quirks=(NO_RESET,)).attach()
    rig.ask(SetAltSetting(1, 1))
    return rig


def test_a_device_that_is_spared_its_resets_is_asked_for_its_first_settings(spared: Rig, device: FakeDevice) -> None:
    assert kinds(spared.ask(Reset())) == [InterfaceInfo, EpInfo]
    assert device.log[-1] == ("set_interface", 1, 0)
    assert device.calls("reset") == []
    assert spared.ask(GetAltSetting(1), 8) == [(8, AltSettingStatus(SUCCESS, 1, 0))]


def test_a_setting_that_cannot_be_left_is_told_as_it_is(spared: Rig, device: FakeDevice) -> None:
    device.failures["set_interface"] = DeviceError("stalled")
    assert kinds(spared.ask(Reset())) == [InterfaceInfo, EpInfo]
    assert spared.ask(GetAltSetting(1), 8) == [(8, AltSettingStatus(SUCCESS, 1, 1))]


def test_a_device_lost_while_its_first_settings_are_selected_ends_the_session(spared: Rig, device: FakeDevice) -> None:
    device.failures["set_interface"] = DeviceLostError("gone")
    spared.guest.say(Reset())
    with pytest.raises(DeviceLostError, match="gone"):
        spared.settle()


def test_a_reset_goes_on_although_a_transfer_does_not_come_back(rig: Rig, device: FakeDevice) -> None:
    in_use(rig)
    device.keeps_cancelled = True
    rig.ask(Reset())
    assert device.calls("reset") == [[], []]
    assert len(device.flying) == 3


def test_a_device_that_does_not_come_back_from_a_reset_is_taken_away_from_the_guest(
    rig: Rig, device: FakeDevice
) -> None:
    in_use(rig)
    device.failures["reset"] = DeviceError("no answer")
    rig.guest.say(Reset())
    with pytest.raises(DeviceLostError, match="did not come back from a reset: no answer"):
        rig.settle()
    rig.host.disconnect()
    rig.to_guest()
    *cancelled, last = rig.guest.ear.take()
    assert [(packet_id, packet.status) for packet_id, packet in cancelled] == [(n, CANCELLED) for n in (1, 2, 3)]
    assert last == (0, DeviceDisconnect())


# ---- disconnect


def test_a_disconnect_answers_what_is_pending_and_waits_for_the_guests_acknowledgement(
    rig: Rig, device: FakeDevice
) -> None:
    in_use(rig)
    rig.ask(StartInterruptReceiving(0x83))
    rig.host.disconnect()
    answers = rig.answers()
    assert [(packet_id, getattr(packet, "status", None)) for packet_id, packet in answers] == [
        *((n, CANCELLED) for n in (1, 2, 3)),
        (0, None),
    ]
    assert isinstance(answers[-1][1], DeviceDisconnect)
    assert device.flying == []
    assert not rig.host.acknowledged
    rig.ask(DeviceDisconnectAck())
    assert rig.host.acknowledged


def test_a_guest_that_cannot_acknowledge_is_not_waited_for(device: FakeDevice) -> None:
    rig = Rig(device)
    rig.host.start()
    rig.to_guest()
    rig.guest.out[12 + 64] &= ~Cap.DEVICE_DISCONNECT_ACK  # in its hello: a codec's guest always can
    rig.to_host()
    rig.host.service()
    rig.host.disconnect()
    assert rig.host.acknowledged


def test_without_a_device_there_is_nothing_to_say(device: FakeDevice) -> None:
    rig = Rig(device)
    rig.host.start()
    rig.to_guest()
    rig.host.disconnect()
    assert rig.host.acknowledged
    assert not rig.to_guest()


def test_requests_that_cross_the_disconnect_are_answered_with_errors(rig: Rig, device: FakeDevice) -> None:
    rig.host.disconnect()
    rig.guest.control(1, 0x80, 6, 0x0100, 0, 18)
    rig.guest.control(2, 0x02, 1, 0, BULK_IN, 0)
    rig.guest.bulk(3, BULK_IN, 512)
    rig.guest.bulk(4, BULK_OUT, data=bytes(20_000))
    rig.guest.interrupt(5, INTERRUPT_OUT, b"x")
    rig.guest.say(SetConfiguration(2), 6)
    rig.guest.say(GetConfiguration(), 7)
    rig.guest.say(SetAltSetting(1, 1), 8)
    rig.guest.say(GetAltSetting(1), 9)
    rig.guest.say(Reset())
    device.log.clear()
    answers = [(packet_id, packet) for packet_id, packet in rig.answers() if packet_id]
    assert [(packet_id, packet.status) for packet_id, packet in answers] == [(n, IOERROR) for n in range(1, 10)]
    assert [packet.configuration for _, packet in answers[5:7]] == [0, 0]
    assert [packet.alt for _, packet in answers[7:]] == [255, 255]
    assert device.log == []
    assert rig.host.pending_bytes == 0


# ---- close


def test_a_used_device_is_reset_before_it_is_given_back(rig: Rig, device: FakeDevice) -> None:
    in_use(rig)
    rig.host.disconnect()
    device.log.clear()
    rig.host.close()
    assert device.log == [("reset",), ("close",)]
    assert device.flying == []


def test_an_unused_device_is_not(rig: Rig, device: FakeDevice) -> None:
    rig.host.disconnect()
    device.log.clear()
    rig.host.close()
    assert device.log == [("close",)]


def test_a_device_that_was_never_claimed_is_left_open_for_the_next_try(device: FakeDevice) -> None:
    rig = Rig(device)
    rig.host.start()
    rig.host.close()
    assert device.log == []


def test_a_guest_that_broke_the_protocol_does_not_keep_the_device(rig: Rig, device: FakeDevice) -> None:
    in_use(rig)
    rig.ask(StartInterruptReceiving(0x83))
    rig.guest.out += b"\xff" * 16
    with pytest.raises(RemoteProtocolError, match="unknown packet type"):
        rig.settle()
    device.log.clear()
    rig.host.close()
    assert device.log == [("reset",), ("close",)]
    assert device.flying == []


def test_what_ends_behind_a_broken_protocol_is_not_told(rig: Rig, device: FakeDevice) -> None:
    rig.ask(StartIsoStream(ISO_IN, 4, 3))
    rig.ask(StartInterruptReceiving(0x83))
    in_use(rig)
    rig.guest.out += b"\xff" * 16
    with pytest.raises(RemoteProtocolError):
        rig.settle()
    rig.take_outbox()
    for transfer in list(device.flying):
        device.finish(transfer)
    rig.host.disconnect()
    assert rig.host.acknowledged
    device.reap()
    assert rig.host.outbox.parts == []
    rig.host.close()
    assert device.outstanding == 0


def test_nothing_is_begun_behind_a_disconnect(device: FakeDevice) -> None:
    rig = Rig(device)
    rig.host.start()
    rig.to_host()
    rig.host.service()
    rig.host.disconnect()
    rig.host.service()
    assert device.log == [("claim",)]


def test_a_reset_that_fails_at_the_end_is_no_matter(rig: Rig, device: FakeDevice) -> None:
    in_use(rig)
    rig.host.disconnect()
    device.failures["reset"] = DeviceError("no")
    rig.host.close()
    assert device.log[-1] == ("close",)
