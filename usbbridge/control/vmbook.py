"""Which VMs there are: those of the configuration, and those that somebody has named by their target."""

from collections.abc import Iterator

from usbbridge.config import Config, Vm
from usbbridge.control.vms import VmTrack
from usbbridge.errors import NotFoundError, UsageError, UsbBridgeError
from usbbridge.spice.targets import parse_target

ADD_VM = 'add one to the configuration file: [vm.NAME] with target = "spice://HOST:PORT"'


class VmBook:
    """VMs by name. A VM that is named by its target has that for a name, unless the configuration has it."""

    def __init__(self) -> None:
        self._tracks: dict[str, VmTrack] = {}
        self.default = ""
        "Name of the default VM; empty if there is none."

    def __iter__(self) -> Iterator[VmTrack]:
        return iter(list(self._tracks.values()))

    def configure(self, config: Config) -> list[VmTrack]:
        """Take over the configuration's VMs. Returns those that are no longer there, or are somewhere else now."""
        before, self._tracks = self._tracks, {}
        for vm in config.vms:
            old = before.get(vm.name)
            if old is not None and old.settings.targets == vm.targets:
                old.settings, old.configured = vm, True
            self._tracks[vm.name] = old if old is not None and old.settings is vm else VmTrack(vm)
        for name, track in before.items():
            if not track.configured and self.at(name) is None:
                self._tracks[name] = track
        self.default = config.default_vm or (config.vms[0].name if len(config.vms) == 1 else "")
        return [track for track in before.values() if track not in self._tracks.values()]

    def get(self, name: str) -> VmTrack | None:
        """The VM of that very name."""
        return self._tracks.get(name)

    def at(self, target: str) -> VmTrack | None:
        """The VM that has this target, as `usbbridge.spice.targets` writes it, among its own."""
        every = self._tracks.values()
        return next((t for t in every if target in (str(parse_target(text)) for text in t.settings.targets)), None)

    def find(self, name: str) -> VmTrack | None:
        """The VM of that name or target; None if it is neither. One that is named by its target is made as needed."""
        if name in self._tracks:
            return self._tracks[name]
        try:
            target = str(parse_target(name))
        except UsbBridgeError:
            return None
        known = self.at(target)
        if known is None:
            known = self._tracks[target] = VmTrack(Vm(name=target, targets=(target,)), configured=False)
        return known

    def resolve(self, name: str) -> VmTrack:
        """The VM that somebody means; the default one if `name` is empty. Raises UsageError or NotFoundError."""
        track = self.find(name or self.default)
        if track is not None:
            return track
        names = ", ".join(sorted(track.name for track in self if track.configured))
        if not name:
            if not names:
                raise UsageError("no VM is configured", hint=f"{ADD_VM}, or name a target: --vm spice://HOST:PORT")
            raise UsageError("no VM was named, and there is no default one", hint=f"name one of: {names}")
        if ":" in name:
            parse_target(name)  # says what is wrong with it
        known = f"there are: {names}" if names else f"none is configured: {ADD_VM}"
        raise NotFoundError(f"no VM is called {name}", hint=known)

    def drop(self, track: VmTrack) -> None:
        """Nobody needs this one any more, which was named by its target."""
        del self._tracks[track.name]
