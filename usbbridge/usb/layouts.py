"""The layouts of USB descriptors and of the setup packet, field by field, as the tables of the specification have them.

Tools and tests read and build descriptors with these. The program itself starts faster with the `struct` formats of
`usbbridge.usb.descriptors` and `usbbridge.usb.ch9`; a unit test proves the two equal.
"""

from typing import Final

from construct import Byte, Int16ul, Struct

SETUP: Final = Struct(
    "bmRequestType" / Byte,
    "bRequest" / Byte,
    "wValue" / Int16ul,
    "wIndex" / Int16ul,
    "wLength" / Int16ul,
)
"USB 2.0 table 9-2."

DEVICE: Final = Struct(
    "bLength" / Byte,
    "bDescriptorType" / Byte,
    "bcdUSB" / Int16ul,
    "bDeviceClass" / Byte,
    "bDeviceSubClass" / Byte,
    "bDeviceProtocol" / Byte,
    "bMaxPacketSize0" / Byte,
    "idVendor" / Int16ul,
    "idProduct" / Int16ul,
    "bcdDevice" / Int16ul,
    "iManufacturer" / Byte,
    "iProduct" / Byte,
    "iSerialNumber" / Byte,
    "bNumConfigurations" / Byte,
)
"USB 2.0 table 9-8."

CONFIGURATION: Final = Struct(
    "bLength" / Byte,
    "bDescriptorType" / Byte,
    "wTotalLength" / Int16ul,
    "bNumInterfaces" / Byte,
    "bConfigurationValue" / Byte,
    "iConfiguration" / Byte,
    "bmAttributes" / Byte,
    "bMaxPower" / Byte,
)
"USB 2.0 table 9-10."

INTERFACE: Final = Struct(
    "bLength" / Byte,
    "bDescriptorType" / Byte,
    "bInterfaceNumber" / Byte,
    "bAlternateSetting" / Byte,
    "bNumEndpoints" / Byte,
    "bInterfaceClass" / Byte,
    "bInterfaceSubClass" / Byte,
    "bInterfaceProtocol" / Byte,
    "iInterface" / Byte,
)
"USB 2.0 table 9-12."

ENDPOINT: Final = Struct(
    "bLength" / Byte,
    "bDescriptorType" / Byte,
    "bEndpointAddress" / Byte,
    "bmAttributes" / Byte,
    "wMaxPacketSize" / Int16ul,
    "bInterval" / Byte,
)
"USB 2.0 table 9-13."

SUPERSPEED_COMPANION: Final = Struct(
    "bLength" / Byte,
    "bDescriptorType" / Byte,
    "bMaxBurst" / Byte,
    "bmAttributes" / Byte,
    "wBytesPerInterval" / Int16ul,
)
"USB 3.2 table 9-27."
