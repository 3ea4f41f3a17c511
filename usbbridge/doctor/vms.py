"""Virtual machines: whether each can be reached, is what it is taken for, and lets us in.

None of this disturbs whoever uses the VM. spice-server ends the session of another client when somebody gets as far as
linking MAIN with a valid ticket; so MAIN is asked for, and left when the server has answered with its key. A USBREDIR
channel is asked for with a session id that no session has: the server looks at the ticket first and at the session
then, and so tells whether the password is right.
"""

import threading
from collections.abc import Iterator
from typing import Final

from usbbridge.config import Vm
from usbbridge.doctor import greeting, password
from usbbridge.doctor.case import Case
from usbbridge.doctor.examination import guarded
from usbbridge.doctor.finding import Finding, Level, problem, warning
from usbbridge.errors import UsageError, UsbBridgeError
from usbbridge.ipc.api import SessionState
from usbbridge.spice.errors import UntrustedCertificateError, WrongHostError, WrongSubjectError, WrongTicketError
from usbbridge.spice.sockets import Deadline, TlsOptions
from usbbridge.spice.targets import SpiceTarget, parse_target

SECONDS: Final = 1.2
"""For everything about one VM, side by side with the others: together with a service that hangs, two seconds. A VM on
the far side of the world (300 ms there and back) is seen to answer within it."""
MAX_CHANNELS: Final = 8
"USBREDIR channels that are counted: more than that are as good as enough."
EXPIRES_SOON: Final = 14.0
"Days before the end of a certificate from which on it is said."

_MORE_CHANNELS: Final = "give the VM more usb-redir devices, one for each device that is attached at the same time"
_CHANNEL_COMMANDS: Final = (
    "virsh edit NAME   # <redirdev bus='usb' type='spicevmc'/>",
    "qemu ... -chardev spicevmc,id=usb1,name=usbredir -device usb-redir,chardev=usb1",
)


def findings(case: Case) -> Iterator[Finding]:
    """The VM that was asked about, or all that are configured."""
    vms = _chosen(case)
    if isinstance(vms, Finding):
        yield vms
        return
    examined = [_Examined(case, vm) for vm in vms]
    threads = [threading.Thread(target=each.run, daemon=True) for each in examined]
    for thread in threads:
        thread.start()
    deadline = Deadline(2 * SECONDS)
    for thread, each in zip(threads, examined, strict=True):
        thread.join(deadline.left())
        yield from list(each.found)
        if thread.is_alive():
            yield warning(each.title, "this took too long to look at, and was given up")


def _chosen(case: Case) -> tuple[Vm, ...] | Finding:
    config = case.config
    configured = config.vms if config else ()
    if not case.vm:
        return configured
    named = config.vm(case.vm) if config else None
    if named is not None:
        return (named,)
    title = f"VM {case.vm}"
    try:
        return (Vm(case.vm, (str(parse_target(case.vm)),)),)
    except UsageError as error:
        if ":" in case.vm:
            return problem(title, error.message, "", error.hint)
        names = ", ".join(vm.name for vm in configured) or "none"
        return problem(title, "the configuration names no such VM", "", f"configured: {names}", "usbbridge vm")


class _Examined:
    """One VM."""

    def __init__(self, case: Case, vm: Vm) -> None:
        self._case, self._vm = case, vm
        self._status = case.served.vm(vm.name) if case.served else None
        self.title = f"VM {vm.name}"
        self.found: list[Finding] = []

    def run(self) -> None:
        """Look at it."""
        for check in (self._session, self._targets):
            for finding in guarded(self.title, check):
                self.found.append(finding)

    def _say(self, level: Level, found: str, why: str = "", remedy: str = "", *commands: str) -> Finding:
        return Finding(self.title, level, found, why, remedy, commands)

    # ---- what the service knows of it

    def _session(self) -> Iterator[Finding]:
        status = self._status
        if status is None:
            return
        if status.state is SessionState.CONNECTED:
            yield self._channels_in_use(status.channels, status.used, status.queued)
        elif status.state is SessionState.YIELDED:
            why = "a SPICE server has one client at a time, and the service does not fight over it"
            found = status.message or "another client has taken its session over"
            yield self._say(Level.WARNING, found, why, status.hint)
        elif status.state in (SessionState.FAILED, SessionState.WAITING):
            level = Level.PROBLEM if status.state is SessionState.FAILED else Level.WARNING
            yield self._say(level, f"the service has no session with it: {status.message}", "", status.hint)

    def _channels_in_use(self, channels: int | None, used: int, queued: int) -> Finding:
        if channels is None:
            return self._say(Level.OK, f"the service is connected to it; {used} in use")
        if not channels:
            return self._no_channels()
        if used < channels:
            return self._say(Level.OK, f"the service is connected to it; {used} of {channels} USB channels are in use")
        waiting = f", and {queued} waiting for one" if queued else ""
        level = Level.WARNING if queued else Level.OK
        every = "its only USB channel is" if channels == 1 else f"all {channels} of its USB channels are"
        found = f"{every} in use{waiting}"
        return self._say(level, found, "one channel carries one device", _MORE_CHANNELS)

    def _no_channels(self) -> Finding:
        why = "each device needs a USB channel of its own in the VM"
        return self._say(Level.PROBLEM, "it has no USB channels", why, _MORE_CHANNELS, *_CHANNEL_COMMANDS)

    # ---- the way there

    def _targets(self) -> Iterator[Finding]:
        deadline = Deadline(SECONDS)
        for text in self._vm.targets:
            target = parse_target(text)
            try:
                if isinstance(target, SpiceTarget):
                    yield from self._spice(target, deadline)
                else:
                    yield self._raw(target, deadline)
            except UsbBridgeError as error:
                yield self._say(Level.PROBLEM, error.message, "", error.hint)

    def _raw(self, target: greeting.RawTarget, deadline: Deadline) -> Finding:
        if self._status is not None and self._status.used:
            return self._say(Level.OK, f"{target} was not tried: the service uses it")
        greeting.touch(target, deadline)
        return self._say(Level.OK, f"{target} can be reached; it takes one device")

    def _spice(self, target: SpiceTarget, deadline: Deadline) -> Iterator[Finding]:
        tls = TlsOptions(str(self._vm.ca_file) if self._vm.ca_file else None, self._vm.host_subject or None)
        try:
            answer = greeting.greet(target, tls, deadline)
        except (UntrustedCertificateError, WrongHostError, WrongSubjectError) as error:
            shown = greeting.show_certificate(target, deadline)
            remedy = error.hint.replace("--ca-file", "ca-file").replace("--host-subject", "host-subject")
            yield self._say(Level.PROBLEM, error.message, f"the server shows {shown}" if shown else "", remedy)
            return
        how = "over TLS" if answer.secure else "without encryption"
        yield self._say(Level.OK, f"a SPICE server answers at {answer.where}, {how}")
        if answer.certificate is not None:
            yield self._validity(answer.certificate)
        yield from self._entrance(target, tls, deadline)
        if self._status is None or self._status.state is not SessionState.CONNECTED:
            found = "a SPICE server has one client at a time: attaching a device ends the session of a viewer elsewhere"
            yield self._say(Level.OK, found)

    def _validity(self, certificate: greeting.Certificate) -> Finding:
        found = f"its certificate is trusted: {certificate}"
        if certificate.days_left >= EXPIRES_SOON:
            return self._say(Level.OK, found)
        why = "after that day nothing can be connected to it any more"
        return self._say(Level.WARNING, found, why, "have it renewed on the VM's host")

    def _entrance(self, target: SpiceTarget, tls: TlsOptions, deadline: Deadline) -> Iterator[Finding]:
        """The password, and how many USB channels there are."""
        secret = self._secret()
        if isinstance(secret, Finding):
            yield secret
        else:
            try:
                exists = greeting.try_ticket(target, tls, secret, deadline)
            except WrongTicketError as error:
                yield self._wrong_ticket(error)
            else:
                if exists:
                    yield self._say(Level.OK, "its password is right" if secret else "it wants no password")
        if self._status is None or self._status.channels is None:
            yield self._counted(*greeting.count_channels(target, tls, deadline, MAX_CHANNELS))

    @property
    def _configured(self) -> bool:
        config = self._case.config
        return config is not None and config.vm(self._vm.name) is not None

    def _secret(self) -> str | Finding:
        if self._vm.password_file is not None:
            return password.of_file(self._case, self.title, self._vm.password_file)
        return "" if self._configured else password.of_target()

    def _wrong_ticket(self, error: WrongTicketError) -> Finding:
        file = self._vm.password_file
        if file is not None:
            return self._say(Level.PROBLEM, error.message, "", f"correct {file}; its first line is the password")
        if self._configured:
            remedy = 'put the password into a file that only the service can read, and say password-file = "/that/file"'
            return self._say(Level.PROBLEM, "it wants a password, and none is configured", "", remedy)
        if error.given:
            return self._say(Level.PROBLEM, error.message, "", f"correct {password.VARIABLE}")
        return self._say(Level.OK, f"it wants a password: {password.VARIABLE}, --password-file, or at the prompt")

    def _counted(self, channels: int, are_all: bool) -> Finding:
        if not channels:
            late = "its USB channels were not counted: it is too far away for the time there is"
            return self._no_channels() if are_all else self._say(Level.OK, late)
        number = f"{'' if are_all else 'at least '}{channels} USB channel{'s' * (channels != 1)}"
        command = f"usbbridge vm check {self._vm.name}"
        return self._say(
            Level.OK,
            f"it has {number}, for as many devices at a time; how many of them are free shows in a session ({command}),"
            " what the VM's USB filter lets through only when a device is attached",
        )
