"""Endpoint 0 of an emulated device: the standard requests of USB 2.0 §9.4 (and USB 3.2 §9.4) and the state they change.

A request that the device doesn't know, or whose numbers name nothing that exists, is answered with a STALL
(USB 2.0 §9.2.7); the next setup packet clears it by itself, so endpoint 0 has no halt.
"""

from collections.abc import Callable, Iterable
from typing import Final

from usbbridge.backend.emulated.function import STALL, Function
from usbbridge.usb.ch9 import (
    LANGUAGE_ENGLISH_US,
    DescriptorType,
    Feature,
    Recipient,
    Request,
    RequestType,
    SetupPacket,
    Speed,
    TransferType,
)
from usbbridge.usb.descriptors import (
    Configuration,
    Endpoint,
    device_bytes,
    language_descriptor,
    parse_configuration,
    string_descriptor,
)

SELF_POWERED: Final = 0x40
REMOTE_WAKEUP: Final = 0x20
"Bits of a configuration's bmAttributes (USB 2.0 table 9-10)."
SET_SEL_SIZE: Final = 6
"SET_SEL carries four exit latencies in six bytes (USB 3.2 §9.4.12)."
FUNCTION_SUSPEND: Final = 0
"wValue of SET_FEATURE to an interface at SuperSpeed (USB 3.2 table 9-7)."

Handler = Callable[[SetupPacket, memoryview], int]


class Chapter9:
    """What a device remembers by chapter 9 (configuration, alternate settings, halts, features), and its requests."""

    def __init__(self, function: Function, flush: Callable[[Iterable[int]], None]) -> None:
        """`flush` is called with endpoints whose waiting transfers must end: they no longer exist or start anew."""
        self._function, self._model, self._flush = function, function.model, flush
        self._configurations = tuple(parse_configuration(data) for data in self._model.configurations)
        self._super_speed = self._model.speed in (Speed.SUPER, Speed.SUPER_PLUS)
        self.configuration: Configuration | None = None
        self.alternates: dict[int, int] = {}
        self.endpoints: dict[int, Endpoint] = {}
        "The endpoints that exist now, by address."
        self.halted: set[int] = set()
        self._features: set[int] = set()
        self._handlers: dict[int, Handler] = {
            Request.GET_STATUS: self._get_status,
            Request.CLEAR_FEATURE: self._clear_feature,
            Request.SET_FEATURE: self._set_feature,
            Request.SET_ADDRESS: lambda setup, data: 0,  # the address is the host controller's affair
            Request.GET_DESCRIPTOR: self._get_descriptor,
            Request.GET_CONFIGURATION: self._get_configuration,
            Request.SET_CONFIGURATION: self._set_configuration,
            Request.GET_INTERFACE: self._get_interface,
            Request.SET_INTERFACE: self._set_interface,
            Request.SET_SEL: self._set_sel,
            Request.SET_ISOCH_DELAY: lambda setup, data: 0 if self._super_speed else STALL,
        }

    @property
    def first_value(self) -> int:
        """bConfigurationValue of the first configuration: the one that hosts choose."""
        return self._configurations[0].value

    @property
    def has_iso(self) -> bool:
        """Whether any configuration has an isochronous endpoint."""
        settings = [setting for configuration in self._configurations for setting in configuration.interfaces]
        return any(e.transfer_type is TransferType.ISO for setting in settings for e in setting.endpoints)

    # ---- state changes, also asked for by the engine's owner

    def configure(self, value: int) -> bool:
        """SET_CONFIGURATION (§9.4.7), 0 unconfigures. False: there is no such configuration, nothing has changed."""
        chosen = next((c for c in self._configurations if c.value == value), None)
        if chosen is None and value != 0:
            return False
        self._flush(tuple(self.endpoints))
        self.configuration = chosen
        self.alternates = dict.fromkeys(chosen.numbers, 0) if chosen else {}
        self.halted.clear()
        self._list_endpoints()
        self._function.restart()
        return True

    def select(self, number: int, alternate: int) -> bool:
        """SET_INTERFACE (§9.4.10); also ends the halts of the interface's endpoints. False: no such setting."""
        if self.configuration is None or self.configuration.setting(number, alternate) is None:
            return False
        before = self.configuration.setting(number, self.alternates[number])
        addresses = {endpoint.address for endpoint in before.endpoints} if before else set()
        self._flush(addresses)
        self.halted -= addresses
        self.alternates[number] = alternate
        self._list_endpoints()
        self._function.select(number, alternate)
        return True

    def clear_halt(self, address: int) -> bool:
        """CLEAR_FEATURE(ENDPOINT_HALT) (§9.4.5). False: there is no such endpoint."""
        self.halted.discard(address)
        return address in self.endpoints

    def reset(self) -> None:
        """A port reset after which the host has restored the configuration, with its first alternate settings."""
        self._flush(tuple(self.endpoints))
        self.halted.clear()
        self._features.clear()
        self.alternates = dict.fromkeys(self.alternates, 0)
        self._list_endpoints()
        self._function.reset()

    def _list_endpoints(self) -> None:
        self.endpoints = {}
        if self.configuration is not None:
            for number, alternate in self.alternates.items():
                setting = self.configuration.setting(number, alternate)
                self.endpoints |= {endpoint.address: endpoint for endpoint in (setting.endpoints if setting else ())}

    # ---- requests

    def control(self, setup: SetupPacket, data: memoryview) -> int:
        """Answer one control transfer; `data` is its data stage. Returns bytes used, STALL, or a function's NAK."""
        if setup.kind is not RequestType.STANDARD:
            return self._function.control(setup, data)
        own = self._function.standard(setup, data)
        if own is not None:
            return own
        handler = self._handlers.get(setup.request)
        answer = handler(setup, data) if handler else STALL
        if answer == STALL and setup.recipient == Recipient.INTERFACE:
            return self._function.control(setup, data)  # HID has its report descriptor there, for instance
        return answer

    def _get_descriptor(self, setup: SetupPacket, data: memoryview) -> int:
        if not setup.is_in or setup.recipient != Recipient.DEVICE:
            return STALL
        found = self._descriptor(setup.value >> 8, setup.value & 0xFF, setup.index)
        return _reply(data, found) if found else STALL

    def _descriptor(self, kind: int, index: int, language: int) -> bytes:
        """The descriptor that was asked for, empty if there is none."""
        model = self._model
        if kind == DescriptorType.STRING:
            return self._string(index, language)
        if kind == DescriptorType.CONFIGURATION:
            return model.configurations[index] if index < len(model.configurations) else b""
        if kind == DescriptorType.OTHER_SPEED_CONFIGURATION and index < len(model.other_speed):
            return _retyped(model.other_speed[index], kind)
        if index == 0:
            if kind == DescriptorType.DEVICE:
                return device_bytes(model.device)
            if kind == DescriptorType.DEVICE_QUALIFIER and model.other_speed:
                return self._qualifier()
            if kind == DescriptorType.BOS:
                return model.bos
        return b""

    def _string(self, index: int, language: int) -> bytes:
        if index == 0:
            return language_descriptor(LANGUAGE_ENGLISH_US)
        if index > len(self._model.strings) or language not in (LANGUAGE_ENGLISH_US, 0):
            return b""  # language 0 is what some hosts ask with before they have read the list
        return string_descriptor(self._model.strings[index - 1])

    def _qualifier(self) -> bytes:
        """Device qualifier: what the device descriptor would say at full speed (USB 2.0 table 9-9)."""
        device = device_bytes(self._model.device)
        return bytes((10, DescriptorType.DEVICE_QUALIFIER)) + device[2:8] + bytes((len(self._model.other_speed), 0))

    def _get_configuration(self, setup: SetupPacket, data: memoryview) -> int:
        if not setup.is_in:
            return STALL
        return _reply(data, bytes((self.configuration.value if self.configuration else 0,)))

    def _set_configuration(self, setup: SetupPacket, data: memoryview) -> int:
        return 0 if not setup.is_in and self.configure(setup.value) else STALL

    def _get_interface(self, setup: SetupPacket, data: memoryview) -> int:
        alternate = self.alternates.get(setup.index)
        return _reply(data, bytes((alternate,))) if setup.is_in and alternate is not None else STALL

    def _set_interface(self, setup: SetupPacket, data: memoryview) -> int:
        return 0 if not setup.is_in and self.select(setup.index, setup.value) else STALL

    def _set_sel(self, setup: SetupPacket, data: memoryview) -> int:
        return SET_SEL_SIZE if self._super_speed and not setup.is_in and len(data) == SET_SEL_SIZE else STALL

    def _get_status(self, setup: SetupPacket, data: memoryview) -> int:
        """USB 2.0 §9.4.5: two bytes of flags."""
        if not setup.is_in or setup.value:
            return STALL
        if setup.recipient == Recipient.DEVICE:
            return _reply(data, self._device_status().to_bytes(2, "little"))
        if setup.recipient == Recipient.INTERFACE:
            return _reply(data, bytes(2)) if setup.index & 0xFF in self.alternates else STALL
        if setup.recipient == Recipient.ENDPOINT and self._has_endpoint(setup.index):
            return _reply(data, bytes((setup.index in self.halted, 0)))
        return STALL

    def _device_status(self) -> int:
        attributes = self.configuration.attributes if self.configuration else 0
        flags = {Feature.DEVICE_REMOTE_WAKEUP: 2, Feature.U1_ENABLE: 4, Feature.U2_ENABLE: 8, Feature.LTM_ENABLE: 16}
        return bool(attributes & SELF_POWERED) | sum(bit for feature, bit in flags.items() if feature in self._features)

    def _has_endpoint(self, address: int) -> bool:
        return address in self.endpoints or address & ~0x80 == 0

    def _clear_feature(self, setup: SetupPacket, data: memoryview) -> int:
        return self._feature(setup, on=False)

    def _set_feature(self, setup: SetupPacket, data: memoryview) -> int:
        return self._feature(setup, on=True)

    def _feature(self, setup: SetupPacket, *, on: bool) -> int:
        if setup.is_in:
            return STALL
        if setup.recipient == Recipient.ENDPOINT:
            return self._endpoint_feature(setup, on=on)
        if setup.recipient == Recipient.INTERFACE:
            known = self._super_speed and setup.value == FUNCTION_SUSPEND and setup.index & 0xFF in self.alternates
            return 0 if known else STALL
        if setup.recipient != Recipient.DEVICE or not self._has_feature(setup.value):
            return STALL
        (self._features.add if on else self._features.discard)(setup.value)
        return 0

    def _has_feature(self, feature: int) -> bool:
        if feature == Feature.DEVICE_REMOTE_WAKEUP:
            return self.configuration is not None and bool(self.configuration.attributes & REMOTE_WAKEUP)
        return self._super_speed and feature in (Feature.U1_ENABLE, Feature.U2_ENABLE, Feature.LTM_ENABLE)

    def _endpoint_feature(self, setup: SetupPacket, *, on: bool) -> int:
        if setup.value != Feature.ENDPOINT_HALT or not self._has_endpoint(setup.index):
            return STALL
        if setup.index in self.endpoints:
            (self.halted.add if on else self.halted.discard)(setup.index)
        return 0


def _reply(data: memoryview, answer: bytes) -> int:
    """Put as much of `answer` into the data stage as the host made room for."""
    size = min(len(data), len(answer))
    data[:size] = answer[:size]
    return size


def _retyped(configuration: bytes, kind: int) -> bytes:
    """A configuration with another bDescriptorType: that is all an other-speed configuration differs in."""
    return configuration[:1] + bytes((kind,)) + configuration[2:]
