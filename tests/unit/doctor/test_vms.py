"""What is said of VMs, without anybody's session being disturbed."""

import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.fakes.service import DESK, FakeService, status
from tests.unit.doctor.conftest import SOMEBODY, Look
from tests.unit.spice.listener import Listener, answering, closing, greeting
from tests.unit.spice.pki import Authority
from usbbridge.doctor import password, vms
from usbbridge.doctor.finding import Finding, Level
from usbbridge.doctor.greeting import count_channels
from usbbridge.doctor.vms import MAX_CHANNELS, findings
from usbbridge.ipc.api import SessionState, VmStatus
from usbbridge.loopback.vm import LoopbackVm
from usbbridge.spice.connection import open_channel, open_main
from usbbridge.spice.messages import ChannelType
from usbbridge.spice.sockets import Deadline, TlsOptions
from usbbridge.spice.targets import SpiceTarget


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine may be busy; nothing here waits that long but for an answer that comes."""
    monkeypatch.setattr(vms, "SECONDS", 20.0)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority(tmp_path_factory.mktemp("x509"))
    authority.server("127.0.0.1", days=400)
    return authority


@contextlib.contextmanager
def secure_vm(authority: Authority) -> Iterator[str]:
    """A VM over TLS with the authority's certificate: its target."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.folder / "server-cert.pem", authority.folder / "server-key.pem")
    with LoopbackVm(tls=context) as vm:
        yield f"spice+tls://127.0.0.1:{vm.port}"


def configure(config: Path, target: str, **keys: object) -> None:
    lines = [f'{name.replace("_", "-")} = "{value}"\n' for name, value in {"target": target, **keys}.items()]
    with config.open("a") as file:
        file.write("".join(["[vm.desk]\n", *lines]))


def words(found: list[Finding]) -> str:
    return "\n".join(f"{finding.level.value}: {finding.found}" for finding in found)


def problems(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.level is Level.PROBLEM]


# ---- which


def test_without_vms_there_is_nothing_to_say(look: Look) -> None:
    assert list(findings(look())) == []


def test_a_vm_that_nobody_knows_is_a_problem_with_those_that_are_known(look: Look, config: Path) -> None:
    configure(config, "spice://127.0.0.1:1")
    (finding,) = findings(look(vm="dask"))
    assert (finding.level, finding.found) == (Level.PROBLEM, "the configuration names no such VM")
    assert finding.remedy == "configured: desk"


def test_a_target_that_makes_no_sense_is_said_to_make_none(look: Look) -> None:
    (finding,) = findings(look(vm="spice://host"))
    assert finding.level is Level.PROBLEM
    assert "the port is missing" in finding.found


# ---- the way there


def test_a_vm_that_is_well(look: Look, config: Path) -> None:
    with LoopbackVm(channels=2) as vm:
        configure(config, vm.target)
        found = list(findings(look()))
    assert {finding.level for finding in found} == {Level.OK}
    assert f"a SPICE server answers at 127.0.0.1:{vm.port}, without encryption" in words(found)
    assert "it wants no password" in words(found)
    assert "it has 2 USB channels, for as many devices at a time" in words(found)
    assert "ends the session of a viewer elsewhere" in words(found)
    assert vm.violations == []


def test_a_session_that_somebody_has_goes_on(look: Look, config: Path, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret")
    with LoopbackVm(password="secret", channels=2) as vm:
        configure(config, vm.target, password_file=tmp_path / "password")
        target = SpiceTarget("127.0.0.1", vm.port)
        linked, main = open_main(target, password="secret")
        assert main.init is not None
        session = main.init.session_id
        with linked.sock:
            assert problems(list(findings(look()))) == []
            # The server links channels of living sessions only.
            channel = open_channel(target, ChannelType.USBREDIR, 1, connection_id=session, password="secret")
            channel.sock.close()


def test_more_channels_than_are_counted(look: Look) -> None:
    with LoopbackVm(channels=MAX_CHANNELS + 1) as vm:
        assert f"at least {MAX_CHANNELS} USB channels" in words(list(findings(look(vm=vm.target))))


def test_channels_that_there_was_no_time_to_count_are_not_said_to_be_missing() -> None:
    with LoopbackVm(channels=2) as vm:
        late = Deadline(0.0)
        assert count_channels(SpiceTarget("127.0.0.1", vm.port), TlsOptions(), late, 8)[1] is False


def test_a_vm_without_usb_channels_has_a_problem(look: Look) -> None:
    with LoopbackVm(channels=0) as vm:
        (finding,) = problems(list(findings(look(vm=vm.target))))
    assert finding.found == "it has no USB channels"
    assert any("usb-redir" in command for command in finding.commands)


def test_a_port_that_is_closed_is_a_problem(look: Look) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    (finding,) = findings(look(vm=f"spice://127.0.0.1:{port}"))
    assert (finding.level, finding.subject) == (Level.PROBLEM, f"VM spice://127.0.0.1:{port}")
    assert "connection refused" in finding.found


def test_a_name_that_nobody_knows_is_a_problem(look: Look) -> None:
    (finding,) = findings(look(vm="spice://no-such-host.invalid:5900"))
    assert "could not be resolved" in finding.found


@pytest.mark.parametrize(
    ("part", "what"),
    [(greeting(b"SSH-2.0-OpenSSH_9.2\r\n"), "it answered with SSH"), (closing(), "closed the connection")],
)
def test_what_is_no_spice_server_is_said_not_to_be(look: Look, part: object, what: str) -> None:
    with Listener(part) as server:  # type: ignore[arg-type]  # a Part
        (finding,) = findings(look(vm=f"spice://127.0.0.1:{server.port}"))
    assert finding.level is Level.PROBLEM
    assert what in finding.found


def test_a_server_that_says_nothing_is_not_waited_for(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vms, "SECONDS", 0.1)
    with Listener(answering()) as server:
        (finding,) = findings(look(vm=f"spice://127.0.0.1:{server.port}"))
    assert "said nothing during the link stage" in finding.found


# ---- passwords


def test_a_password_is_tried_without_a_session(look: Look, config: Path, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n")
    with LoopbackVm(password="secret") as vm:
        configure(config, vm.target, password_file=tmp_path / "password")
        found = list(findings(look()))
    assert problems(found) == []
    assert "its password is right" in words(found)


def test_a_wrong_password_is_a_problem_and_names_the_file(look: Look, config: Path, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("guess\n")
    with LoopbackVm(password="secret") as vm:
        configure(config, vm.target, password_file=tmp_path / "password")
        found = list(findings(look()))
    (finding,) = problems(found)
    assert "refused the password" in finding.found
    assert str(tmp_path / "password") in finding.remedy
    assert "guess" not in words(found)
    assert "it has 1 USB channel" in words(found)


def test_a_password_that_is_wanted_and_not_configured_is_a_problem(look: Look, config: Path) -> None:
    with LoopbackVm(password="secret") as vm:
        configure(config, vm.target)
        (finding,) = problems(list(findings(look())))
        assert finding.found == "it wants a password, and none is configured"
        assert problems(list(findings(look(vm=vm.target)))) == []


def test_the_password_for_a_target_is_where_attach_finds_it(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    with LoopbackVm(password="secret") as vm:
        monkeypatch.setenv("USBBRIDGE_PASSWORD", "secret")
        assert "its password is right" in words(list(findings(look(vm=vm.target))))
        monkeypatch.setenv("USBBRIDGE_PASSWORD", "guess")
        (finding,) = problems(list(findings(look(vm=vm.target))))
    assert finding.remedy == "correct USBBRIDGE_PASSWORD"


@pytest.mark.parametrize(
    ("content", "what"),
    [(None, "No such file"), (b"\xff\xfe\n", "not UTF-8"), (b"x" * 5000, "more than 4096 bytes")],
)
def test_a_password_file_that_can_not_be_one_is_a_problem(
    look: Look, config: Path, tmp_path: Path, content: bytes | None, what: str
) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    with LoopbackVm(password="secret") as vm:
        configure(config, vm.target, password_file=file)
        (finding,) = problems(list(findings(look())))
    assert what in finding.found


def test_a_password_file_of_others_is_not_tried(
    look: Look, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, mode: str) -> NoReturn:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)  # to root, whom the tests may run as, every file is open
    found = password.of_file(look(user=SOMEBODY), "VM desk", tmp_path / "password")
    assert isinstance(found, Finding)
    assert (found.level, found.found) == (
        Level.OK,
        f"{tmp_path}/password is not for ann to read, so the password was not tried",
    )


# ---- TLS


def test_a_trusted_certificate_is_told_with_its_end(look: Look, config: Path, authority: Authority) -> None:
    with secure_vm(authority) as target:
        configure(config, target, ca_file=authority.file)
        found = list(findings(look()))
    assert {finding.level for finding in found} == {Level.OK}
    assert "over TLS" in words(found)
    assert "its certificate is trusted: O=Example\\, Inc.,CN=vm-host, from CN=test CA,O=Example, until " in words(found)


def test_a_certificate_that_ends_soon_is_a_warning(look: Look, config: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "x509")
    authority.server("127.0.0.1", days=3)
    with secure_vm(authority) as target:
        configure(config, target, ca_file=authority.file)
        (finding,) = [each for each in findings(look()) if each.level is not Level.OK]
    assert finding.level is Level.WARNING
    assert "until " in finding.found


def test_a_certificate_that_has_ended_is_a_problem(look: Look, config: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "x509")
    authority.server("127.0.0.1", days=0)
    with secure_vm(authority) as target:
        configure(config, target, ca_file=authority.file)
        (finding,) = findings(look())
    assert finding.level is Level.PROBLEM
    assert "expired" in finding.found
    assert "expired on" in finding.why


def test_a_certificate_from_an_unknown_ca_is_shown(look: Look, authority: Authority) -> None:
    with secure_vm(authority) as target:
        (finding,) = findings(look(vm=target))
    assert "its certificate is not trusted" in finding.found
    assert "the server shows O=Example\\, Inc.,CN=vm-host, from CN=test CA,O=Example" in finding.why


def test_a_certificate_with_another_subject_is_shown(look: Look, config: Path, authority: Authority) -> None:
    with secure_vm(authority) as target:
        configure(config, target, ca_file=authority.file, host_subject="CN=other")
        (finding,) = findings(look())
    assert "its certificate's subject is O=Example\\, Inc.,CN=vm-host, not CN=other" in finding.found


def test_a_plain_port_is_told_from_a_tls_port(look: Look, authority: Authority) -> None:
    with LoopbackVm() as vm:
        (finding,) = findings(look(vm=f"spice+tls://127.0.0.1:{vm.port}"))
    assert finding.level is Level.PROBLEM
    with secure_vm(authority) as target:
        (finding,) = findings(look(vm=target.replace("spice+tls", "spice")))
    assert finding.level is Level.PROBLEM


# ---- raw connections


def test_a_raw_port_is_touched_and_left(look: Look, config: Path, tmp_path: Path) -> None:
    with Listener(closing()) as server:
        (finding,) = findings(look(vm=f"tcp://127.0.0.1:{server.port}"))
    assert finding.found == f"tcp://127.0.0.1:{server.port} can be reached; it takes one device"
    (finding,) = findings(look(vm=f"unix:{tmp_path}/nothing"))
    assert finding.level is Level.PROBLEM


def test_a_raw_port_that_the_service_uses_is_left_alone(look: Look, config: Path, service: FakeService) -> None:
    configure(config, "tcp://127.0.0.1:1")
    service.serve(status(vms=(VmStatus("desk", "tcp://127.0.0.1:1", used=1),)))
    assert "was not tried: the service uses it" in words(list(findings(look())))


# ---- what the service knows


@pytest.mark.parametrize(
    ("fields", "level", "what"),
    [
        ({"channels": 2, "used": 1}, Level.OK, "1 of 2 USB channels are in use"),
        ({"channels": 2, "used": 2}, Level.OK, "all 2 of its USB channels are in use"),
        ({"channels": 2, "used": 2, "queued": 3}, Level.WARNING, "are in use, and 3 waiting for one"),
        ({"channels": 0}, Level.PROBLEM, "it has no USB channels"),
        ({"state": SessionState.YIELDED, "message": "a viewer has it"}, Level.WARNING, "a viewer has it"),
        ({"state": SessionState.WAITING, "message": "it is off"}, Level.WARNING, "no session with it: it is off"),
        ({"state": SessionState.FAILED, "message": "wrong"}, Level.PROBLEM, "no session with it: wrong"),
    ],
)
def test_the_session_that_the_service_has_is_told(
    look: Look, config: Path, service: FakeService, fields: dict[str, object], level: Level, what: str
) -> None:
    with LoopbackVm() as vm:
        configure(config, vm.target)
        known = {"state": SessionState.CONNECTED, **fields}
        service.serve(status(vms=(VmStatus("desk", vm.target, **known),)))  # type: ignore[arg-type]  # by the names above
        found = list(findings(look()))
    assert (level, True) in [(finding.level, what in finding.found) for finding in found]


def test_no_viewer_is_warned_of_when_the_session_is_the_services(
    look: Look, config: Path, service: FakeService
) -> None:
    with LoopbackVm() as vm:
        configure(config, vm.target)
        service.serve(status(vms=(VmStatus("desk", vm.target, state=SessionState.CONNECTED, channels=1),)))
        assert "viewer" not in words(list(findings(look())))
        service.serve(status(vms=(DESK,)))
        assert "viewer" in words(list(findings(look())))
