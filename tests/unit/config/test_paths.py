"""Where everything is, by mode and environment."""

from pathlib import Path

import pytest

from usbbridge.config import Paths


def test_the_systems_places() -> None:
    paths = Paths.default({"USBBRIDGE_MODE": "system"})
    assert paths == Paths.of_system()
    assert paths.config == Path("/etc/usbbridge/usbbridge.toml")
    assert paths.client_sockets() == [Path("/run/usbbridge/control.sock")]


def test_a_users_places_are_those_of_the_xdg_specification() -> None:
    environment = {
        "USBBRIDGE_MODE": "user",
        "HOME": "/home/anna",
        "XDG_CONFIG_HOME": "/c",
        "XDG_STATE_HOME": "/s",
        "XDG_RUNTIME_DIR": "/r",
    }
    paths = Paths.default(environment)
    assert (paths.config, paths.conf_d) == (Path("/c/usbbridge/usbbridge.toml"), Path("/c/usbbridge/conf.d"))
    assert (paths.database, paths.choices) == (Path("/s/usbbridge/compat.db"), Path("/s/usbbridge/choices.json"))
    assert paths.monitor_socket == Path("/r/usbbridge/monitor.sock")
    assert paths.control_socket == Path("/r/usbbridge/control.sock")
    assert paths.handed_out == Path("/r/usbbridge/handed-out.json")


@pytest.mark.parametrize("unset", [{}, {"XDG_CONFIG_HOME": "", "XDG_STATE_HOME": "relative", "XDG_RUNTIME_DIR": "./r"}])
def test_without_the_variables_the_specifications_defaults_hold(unset: dict[str, str]) -> None:
    paths = Paths.of_user({"HOME": "/home/anna", **unset})
    assert paths.config == Path("/home/anna/.config/usbbridge/usbbridge.toml")
    assert paths.choices == Path("/home/anna/.local/state/usbbridge/choices.json")
    assert paths.control_socket == Path("/home/anna/.local/state/usbbridge/control.sock")


def test_the_environment_names_another_main_file_with_its_drop_ins_beside_it() -> None:
    paths = Paths.default({"USBBRIDGE_MODE": "system", "USBBRIDGE_CONFIG": "/srv/usb.toml"})
    assert (paths.config, paths.conf_d, paths.named) == (Path("/srv/usb.toml"), Path("/srv/conf.d"), True)
    assert paths.control_socket == Paths.of_system().control_socket


def test_a_client_asks_the_users_own_service_first_if_there_is_one(tmp_path: Path) -> None:
    paths = Paths.default({"USBBRIDGE_MODE": "user", "HOME": "/home/anna", "XDG_RUNTIME_DIR": str(tmp_path)})
    systems = Path("/run/usbbridge/control.sock")
    assert paths.client_sockets() == [systems]
    paths.control_socket.parent.mkdir()
    paths.control_socket.touch()
    assert paths.client_sockets() == [paths.control_socket, systems]
