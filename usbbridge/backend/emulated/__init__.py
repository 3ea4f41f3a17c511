"""USB devices that exist only in this process, for users (an image file as a disk) and for tests.

    function.py   the seam: what a function (disk, keyboard, serial port) must answer
    device.py     the engine: a `usbbridge.backend.base.Device` around one function
    chapter9.py   what the engine answers itself on endpoint 0
    pool.py       transfers and their buffers
    iso.py        isochronous endpoints, by the clock; clock.py: the alarm they wait for
    bot.py        function: mass storage, Bulk-Only Transport around one SCSI logical unit
    scsi.py       SCSI commands every unit has; scsi_disk.py, scsi_cd.py: those of a disk and of a CD-ROM drive
    medium.py     the image file or block device with the unit's data
    disk.py       `disk:PATH[,ro]`
"""
