"""`usbbridge vm`: list, check, add and remove."""

import json
import socket
from pathlib import Path

import pytest

from tests.fakes.service import DESK, FakeService, status
from tests.unit.cli.conftest import Run
from usbbridge.cli import dropins
from usbbridge.config import Paths, Vm, load
from usbbridge.errors import ConnectionLostError, NotFoundError, NotPermittedError, UsbBridgeError
from usbbridge.ipc.api import SessionState, VmStatus
from usbbridge.ipc.codec import to_json

LAB = VmStatus("lab", "tcp://lab:4000", state=SessionState.FAILED, message="wrong password", hint="set it", status=3)


@pytest.mark.parametrize("arguments", [["vm"], ["vm", "list"]])
def test_the_vms_of_the_service_are_listed(run: Run, service: FakeService, arguments: list[str]) -> None:
    service.serve(status(vms=(DESK, LAB)))
    code, out, err = run(arguments)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "NAME  TARGET               DEFAULT  SESSION",
        "desk  spice://vmhost:5900  yes      not connected, as nothing needs it",
        "lab   tcp://lab:4000       -        failed: wrong password",
        "  set it",
    ]


@pytest.mark.parametrize("arguments", [["vm", "--json"], ["vm", "list", "--json"]])
def test_json_is_an_array_of_vms(run: Run, service: FakeService, arguments: list[str]) -> None:
    service.serve(status(vms=(DESK, LAB)))
    assert json.loads(run(arguments)[1]) == [to_json(DESK), to_json(LAB)]


def test_without_a_service_the_configuration_is_shown(run: Run, paths: Paths) -> None:
    dropins.add("desk", ["spice://vmhost:5900"], {}, is_default=True)
    code, out, err = run(["vm", "--json"])
    assert (code, json.loads(out)) == (0, [to_json(DESK)])
    assert err == "usbbridge: the usbbridge service is not running; this is what the configuration says\n"


def test_no_vm_at_all_is_said(run: Run, service: FakeService) -> None:
    service.serve(status(vms=()))
    assert run(["vm"]) == (0, "", "No VM is configured: usbbridge vm add NAME TARGET adds one.\n")
    assert run(["vm", "--json"]) == (0, "[]\n", "")


# ---- check


@pytest.mark.parametrize(("arguments", "vm"), [([], ""), (["desk"], "desk"), (["spice://h:1"], "spice://h:1")])
def test_a_check_asks_the_service(run: Run, service: FakeService, arguments: list[str], vm: str) -> None:
    service.answers["vm-check"] = VmStatus("desk", "spice://h:1", True, SessionState.CONNECTED, channels=1, hint="no")
    assert run(["vm", "check", *arguments]) == (0, "desk (spice://h:1): connected, 0 of 1 channel in use\n", "")
    assert service.asked == [("vm-check", {"vm": vm})]


def test_what_to_do_after_a_check_is_said(run: Run, service: FakeService) -> None:
    service.answers["vm-check"] = LAB
    assert run(["vm", "check"]) == (3, "lab (tcp://lab:4000): failed: wrong password\n  set it\n", "")
    assert run(["vm", "check", "--json"])[0] == 3


def test_a_check_as_json_is_a_vm(run: Run, service: FakeService) -> None:
    service.answers["vm-check"] = DESK
    assert json.loads(run(["vm", "check", "--json"])[1]) == to_json(DESK)


@pytest.mark.parametrize(
    "error", [NotFoundError("refused"), NotPermittedError("wrong password"), ConnectionLostError("gone")]
)
def test_a_check_that_fails_has_the_status_of_its_error(run: Run, service: FakeService, error: UsbBridgeError) -> None:
    service.answers["vm-check"] = error
    assert run(["vm", "check"]) == (error.exit_status, "", f"usbbridge: {error.message}\n")


# ---- add, remove


def test_a_vm_that_is_added_is_in_the_configuration(run: Run, paths: Paths, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    options = ["--ca-file", str(tmp_path / "ca.pem"), "--password-file", "/run/secret", "--host-subject", "CN=h"]
    arguments = ["vm", "add", "desk", "spice+tls://h:1", *options, "--no-compression", "--default"]
    code, out, err = run(arguments)
    assert (code, err) == (0, "")
    assert out == f"desk is in {paths.conf_d}/vm-desk.toml; the service reads it when it starts\n"
    config = load()
    assert config.default_vm == "desk"
    assert config.vms == (
        Vm("desk", ("spice+tls://h:1",), Path("/run/secret"), tmp_path / "ca.pem", "CN=h", "never"),
    )


def test_a_vm_may_have_several_raw_ports(run: Run, paths: Paths) -> None:
    assert run(["vm", "add", "lab", "tcp://h:1", "unix:/run/x"])[0] == 0
    assert load().vms == (Vm("lab", ("tcp://h:1", "unix:/run/x")),)


def test_the_service_is_told(run: Run, service: FakeService) -> None:
    service.answers["reload"] = {}
    _, out, _ = run(["vm", "add", "desk", "spice://h:1"])
    assert out.endswith("; the service has read it\n")
    _, out, _ = run(["vm", "remove", "desk"])
    assert out.endswith("vm-desk.toml was removed; the service has read it\n")
    assert service.asked == [("reload", {}), ("reload", {})]


def test_whoever_is_not_root_does_not_change_the_systems_service(
    run: Run, paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX) as systems:
        systems.bind(str(tmp_path / "system.sock"))
        monkeypatch.setattr(Paths, "client_sockets", lambda self: [self.control_socket, tmp_path / "system.sock"])
        code, out, _ = run(["vm", "add", "desk", "spice://h:1"])
    assert (code, out.partition("; ")[2].startswith("that is the configuration of a service of your own")) == (0, True)


def test_a_service_that_does_not_obey_is_an_error(run: Run, service: FakeService, paths: Paths) -> None:
    service.answers["reload"] = NotPermittedError("only root may", hint="be root")
    code, _, err = run(["vm", "add", "desk", "spice://h:1"])
    assert (code, err) == (3, "usbbridge: it is written, but the service has not read it: only root may\n  be root\n")
    assert load().vm("desk")


@pytest.mark.parametrize("name", ["../desk", "a b", "", "spice:x", "a/b", "x" * 65, "-x"])
def test_a_name_that_is_none_becomes_no_file(run: Run, paths: Paths, name: str) -> None:
    assert run(["vm", "add", "--", name, "spice://h:1"])[:2] == (2, "")
    assert not paths.conf_d.exists()


@pytest.mark.parametrize("targets", [["gopher://x"], ["h:1"], ["spice://h"], ["spice://h:1", "spice://h:2"], [""]])
def test_a_target_that_is_none_leaves_no_file(run: Run, paths: Paths, targets: list[str]) -> None:
    code, out, err = run(["vm", "add", "desk", *targets])
    assert (code, out) == (2, "")
    assert err.startswith("usbbridge: ")
    assert list(paths.conf_d.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["nope"],
        ["list", "desk"],
        ["check", "a", "b"],
        ["add"],
        ["add", "desk"],
        ["add", "desk", "spice://h:1", "--nope"],
        ["add", "desk", "spice://h:1", "--ca-file", "/no/such/file"],
        ["remove"],
        ["remove", "a", "b"],
    ],
)
def test_wrong_usage_is_status_2(run: Run, paths: Paths, arguments: list[str]) -> None:
    assert run(["vm", *arguments])[:2] == (2, "")


def test_no_vm_is_added_twice(run: Run, paths: Paths) -> None:
    run(["vm", "add", "desk", "spice://h:1"])
    code, _, err = run(["vm", "add", "desk", "spice://h:2"])
    assert code == 5
    assert "there is a VM desk already" in err
    assert load().vms == (Vm("desk", ("spice://h:1",)),)


def test_what_is_configured_by_hand_is_not_said_to_be_removable(run: Run, paths: Paths) -> None:
    with paths.config.open("a") as file:
        file.write('[vm.desk]\ntarget = "spice://h:1"\n')
    code, _, err = run(["vm", "add", "desk", "spice://h:2"])
    assert (code, "vm remove" in err, str(paths.config) in err) == (5, False, True)


def test_a_mistake_is_not_looked_for_in_a_file_that_is_gone(run: Run, paths: Paths) -> None:
    code, _, err = run(["vm", "add", "desk", "gopher://x"])
    assert (code, ".toml:" in err, "config check" in err) == (2, False, False)
    assert err.startswith("usbbridge: desk was not added: vm.desk.target: ")


def test_a_check_of_a_raw_port_says_that_it_can_be_reached(run: Run, service: FakeService) -> None:
    service.answers["vm-check"] = VmStatus("lab", "tcp://lab:4000", channels=1)
    assert run(["vm", "check", "lab"]) == (0, "lab (tcp://lab:4000): can be reached, 0 of 1 channel in use\n", "")


def test_a_vm_that_is_not_there_is_not_removed(run: Run, paths: Paths) -> None:
    assert run(["vm", "remove", "desk"])[0] == 4


def test_a_vm_that_was_configured_by_hand_is_left_and_its_file_named(run: Run, paths: Paths) -> None:
    with paths.config.open("a") as file:
        file.write('[vm.desk]\ntarget = "spice://h:1"\n')
    code, _, err = run(["vm", "remove", "desk"])
    assert code == 5
    assert str(paths.config) in err


def test_a_vm_that_is_needed_elsewhere_is_not_removed(run: Run, paths: Paths) -> None:
    run(["vm", "add", "desk", "spice://h:1"])
    with paths.config.open("a") as file:
        file.write('[[assign]]\ndevice = "1-2"\nvm = "desk"\n')
    assert run(["vm", "remove", "desk"])[0] == 2
    assert load().vm("desk")


def test_no_permission_is_status_3(run: Run, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path, *arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", denied)
    code, _, err = run(["vm", "add", "desk", "spice://h:1"])
    assert code == 3
    assert err == f"usbbridge: no permission to write {paths.conf_d}\n  run it as root\n"


@pytest.mark.parametrize("name", ["desk", "a.b", "ünï", "_x-1"])
def test_every_name_that_may_be_is_written_and_read(paths: Paths, name: str) -> None:
    dropins.add(name, ["spice+tls://h:1"], {"host-subject": 'O="A", CN=b\\c'}, is_default=True)
    config = load()
    assert (config.default_vm, config.vms[0].name, config.vms[0].host_subject) == (name, name, 'O="A", CN=b\\c')
    dropins.remove(name)
    assert load().vms == ()
