"""A CD-ROM or DVD-ROM drive with a data disc in it: the multimedia commands (MMC-6) on top of the primary ones.

The disc is one session with one data track from block 0 to the end, as an ISO image is.
"""

from typing import Final

from usbbridge.backend.emulated.medium import Medium
from usbbridge.backend.emulated.scsi import INVALID_FIELD, CheckCondition, LogicalUnit, ReadBlocks, Reply, Sense, Task

BLOCK_SIZE: Final = 2048
MAX_BLOCKS: Final = 1 << 32
"Block addresses of a CD-ROM drive have 32 bits."
CD_BLOCKS: Final = 80 * 60 * 75
"What a CD holds, 80 minutes; a larger disc is a DVD."
PROFILE_CD_ROM: Final = 0x0008
PROFILE_DVD_ROM: Final = 0x0010

FRAMES, SECONDS = 75, 60
LEAD_IN_FRAMES: Final = 2 * FRAMES
"Block 0 is at 00:02:00 (MMC-6 §4.2.3.5)."
TRACK_CONTROL: Final = 0x14
"ADR 1, CONTROL 4: a data track, recorded uninterrupted (MMC-6 §6.26.3.2)."
LEAD_OUT: Final = 0xAA

EVENT_MEDIA: Final = 4
"Notification class (MMC-6 table 301)."
NEW_MEDIA, MEDIA_REMOVAL = 2, 3
"Event codes of that class."


class CdUnit(LogicalUnit):
    """CD-ROM device (MMC), removable, read-only."""

    device_type = 0x05
    product = "usbbridge CD-ROM"

    def __init__(self, medium: Medium, serial: str) -> None:
        super().__init__(medium, serial)
        self._was_ejected = False
        self._handlers |= {
            0x08: self._read_6,
            0x25: self._read_capacity,
            0x28: self._read_10,
            0x43: self._read_toc,
            0x46: self._get_configuration,
            0x4A: self._get_event_status,
            0x51: self._read_disc_information,
            0x52: self._read_track_information,
            0xA8: self._read_12,
            0xBD: self._mechanism_status,
        }
        self._always |= {0x46, 0x4A}  # MMC-6 §4.1.6.1: they never report a unit attention

    def no_medium(self) -> Sense:
        """MEDIUM NOT PRESENT - TRAY OPEN."""
        return Sense(2, 0x3A, 0x02)

    # ---- reading

    def _read_6(self, command: bytes) -> Task:
        return ReadBlocks(self, *self.extent(int.from_bytes(command[1:4]) & 0x1FFFFF, command[4] or 256))

    def _read_10(self, command: bytes) -> Task:
        return ReadBlocks(self, *self.extent(int.from_bytes(command[2:6]), int.from_bytes(command[7:9])))

    def _read_12(self, command: bytes) -> Task:
        return ReadBlocks(self, *self.extent(int.from_bytes(command[2:6]), int.from_bytes(command[6:10])))

    def _read_capacity(self, command: bytes) -> Task:
        self.need_medium()
        return Reply((self.medium.blocks - 1).to_bytes(4) + BLOCK_SIZE.to_bytes(4), 8)

    # ---- the disc

    def _read_toc(self, command: bytes) -> Task:
        """READ TOC/PMA/ATIP (MMC-6 §6.26): formats 0 (tracks), 1 (sessions) and 2 (as in the lead-in)."""
        self.need_medium()
        msf, first = bool(command[1] & 2), command[6]
        layout = command[2] & 0x0F or command[9] >> 6  # the second place is that of SFF-8020, which hosts still use
        if layout == 0 and (first <= 1 or first == LEAD_OUT):
            body = self._tracks(first, msf=msf)
        elif layout == 1:
            body = bytes((0, TRACK_CONTROL, 1, 0)) + _address(0, msf=msf)
        elif layout == 2 and first <= 1:
            body = self._full_toc()
        else:
            raise CheckCondition(INVALID_FIELD)
        return Reply((len(body) + 2).to_bytes(2) + bytes((1, 1)) + body, int.from_bytes(command[7:9]))

    def _tracks(self, first: int, *, msf: bool) -> bytes:
        track = bytes((0, TRACK_CONTROL, 1, 0)) + _address(0, msf=msf)
        end = bytes((0, TRACK_CONTROL, LEAD_OUT, 0)) + _address(self.medium.blocks, msf=msf)
        return end if first == LEAD_OUT else track + end

    def _full_toc(self) -> bytes:
        """MMC-6 §6.26.3.4: first track, last track, lead-out, then the track itself; always in minutes and seconds."""
        points = (0xA0, bytes((1, 0, 0))), (0xA1, bytes((1, 0, 0))), (0xA2, _msf(self.medium.blocks)), (1, _msf(0))
        return b"".join(bytes((1, TRACK_CONTROL, 0, point, 0, 0, 0, 0)) + where for point, where in points)

    def _read_disc_information(self, command: bytes) -> Task:
        """MMC-6 §6.22: standard disc information of a finalized disc with one complete session."""
        if command[1] & 7:
            raise CheckCondition(INVALID_FIELD)
        self.need_medium()
        data = bytearray(34)
        data[0:2] = (32).to_bytes(2)
        data[2] = 0x0E  # last session complete, disc finalized
        data[3:7] = bytes((1, 1, 1, 1))  # first track; sessions; first and last track of the last session
        data[7] = 0x20  # unrestricted use
        data[16:24] = bytes((0xFF,)) * 8  # no lead-in and lead-out to start yet
        return Reply(bytes(data), int.from_bytes(command[7:9]))

    def _read_track_information(self, command: bytes) -> Task:
        """MMC-6 §6.27: every block, track 1 and session 1 are the one track."""
        self.need_medium()
        kind, number = command[1] & 3, int.from_bytes(command[2:6])
        if kind == 3 or (kind and number != 1) or number >= self.medium.blocks:
            raise CheckCondition(INVALID_FIELD)
        data = bytearray(36)
        data[0:2] = (34).to_bytes(2)
        data[2:4] = bytes((1, 1))
        data[5], data[6] = 4, 1  # track mode: data; data mode 1
        data[24:28] = self.medium.blocks.to_bytes(5)[1:]
        return Reply(bytes(data), int.from_bytes(command[7:9]))

    # ---- the drive

    @property
    def _profile(self) -> int:
        if self.ejected:
            return 0
        return PROFILE_CD_ROM if self.medium.blocks <= CD_BLOCKS else PROFILE_DVD_ROM

    def _get_configuration(self, command: bytes) -> Task:
        """MMC-6 §6.6: features from a number on; all, only the current ones, or just that one."""
        wanted, start = command[1] & 3, int.from_bytes(command[2:4])
        if wanted == 3:
            raise CheckCondition(INVALID_FIELD)
        chosen = [
            _feature(number, version, body, current=current)
            for number, version, body, current in self._features()
            if (number == start if wanted == 2 else number >= start) and (current or wanted != 1)
        ]
        body = b"".join(chosen)
        head = (4 + len(body)).to_bytes(4) + bytes(2) + self._profile.to_bytes(2)
        return Reply(head + body, int.from_bytes(command[7:9]))

    def _features(self) -> list[tuple[int, int, bytes, bool]]:
        """(number, version, data, current) of the features of MMC-6 §5.3 that it has."""
        profile, loaded = self._profile, not self.ejected
        profiles = b"".join(p.to_bytes(2) + bytes((p == profile, 0)) for p in (PROFILE_DVD_ROM, PROFILE_CD_ROM))
        return [
            (0x0000, 0, profiles, True),
            (0x0001, 2, bytes((0, 0, 0, 8, 3, 0, 0, 0)), True),  # core: USB; INQUIRY and device busy events
            (0x0002, 1, bytes((2, 0, 0, 0)), True),  # morphing: by operational change events
            (0x0003, 1, bytes((0x29, 0, 0, 0)), True),  # removable medium: tray, ejects, locks
            (0x0010, 0, BLOCK_SIZE.to_bytes(4) + bytes((0, 1, 0, 0)), loaded),  # random readable
            (0x001E, 2, bytes(4), profile == PROFILE_CD_ROM),  # CD read, without C2 pointers and CD-Text
            (0x001F, 0, b"", profile == PROFILE_DVD_ROM),  # DVD read
        ]

    def _get_event_status(self, command: bytes) -> Task:
        """MMC-6 §6.7: polled only; of the classes only the medium's has events."""
        if not command[1] & 1:
            raise CheckCondition(INVALID_FIELD)
        allocation = int.from_bytes(command[7:9])
        if not command[4] & 1 << EVENT_MEDIA:
            return Reply(bytes((0, 2, 0x80, 1 << EVENT_MEDIA)), allocation)  # NEA: no event of these classes
        event = 0
        if self.ejected != self._was_ejected and allocation > 4:  # told once, to a host that hears all of it
            self._was_ejected = self.ejected
            event = MEDIA_REMOVAL if self.ejected else NEW_MEDIA
        status = 1 if self.ejected else 2  # tray open; medium present
        return Reply(bytes((0, 6, EVENT_MEDIA, 1 << EVENT_MEDIA, event, status, 0, 0)), allocation)

    def _mechanism_status(self, command: bytes) -> Task:
        """MMC-6 §6.9: no changer, no audio; bit 4 of byte 1: the tray is open."""
        return Reply(bytes((0, 0x10 if self.ejected else 0, 0, 0, 0, 0, 0, 0)), int.from_bytes(command[8:10]))

    def mode_pages(self, *, changeable: bool) -> dict[int, bytes]:
        """Nothing is changeable. Error recovery, and capabilities (MMC-3 §6.3.11, dropped later, asked for still)."""
        capabilities = bytearray(20)
        if not changeable:
            capabilities[0] = 0x0B  # reads CD-R, CD-RW, DVD-ROM
            capabilities[4] = 0x29 | self.locked << 1  # locks, is locked, ejects, tray
            speed = (24 * 176).to_bytes(2)  # kB/s at most and now; nobody waits by it
            capabilities[6:8] = capabilities[12:14] = speed
            capabilities[10:12] = (2048).to_bytes(2)  # KiB of buffer
        return {0x01: bytes(10), 0x2A: bytes(capabilities)}


def _feature(number: int, version: int, body: bytes, *, current: bool) -> bytes:
    """A feature descriptor (MMC-6 §5.2.2); persistent if it is one that no disc takes away."""
    flags = version << 2 | (number <= 0x0003) << 1 | current
    return number.to_bytes(2) + bytes((flags, len(body))) + body


def _address(block: int, *, msf: bool) -> bytes:
    """A block's address in a table of contents."""
    return b"\0" + _msf(block) if msf else min(block, 0xFFFFFFFF).to_bytes(4)


def _msf(block: int) -> bytes:
    """Minutes, seconds, frames; a DVD's later blocks don't fit and are given the largest (MMC-6 §4.2.3.5)."""
    seconds, frame = divmod(block + LEAD_IN_FRAMES, FRAMES)
    minute, second = divmod(seconds, SECONDS)
    return bytes((minute, second, frame)) if minute <= 0xFF else bytes((0xFF, 59, 74))
