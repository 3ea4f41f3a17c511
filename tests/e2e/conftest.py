"""Two machines, booted once for all tests; each test finds them with nothing plugged in and nothing attached."""

import compileall
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.rig import CA_FILE, TICKET_FILE, Measured, Usbbridge
from tools.lab import REPOSITORY, Client, Lab, Vm, VmOptions

# Seconds a test may take, however slow this host is: far above what one takes.
TEST_SECONDS = 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The bound for e2e tests in place of the one for all tests."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The times that tests measured, by the machines' own clocks."""
    for report in terminalreporter.getreports("passed"):
        for what, seconds in report.user_properties:
            terminalreporter.write_line(f"e2e: {what}: {seconds:.2f} s")


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The lab."""
    # The machines see this tree read-only: without compiled modules there, each start of the command compiles them.
    compileall.compile_dir(REPOSITORY / "usbbridge", quiet=1)
    with Lab(visible=[Path(sys.prefix), Path(sys.base_prefix)]) as made:
        yield made


class Machines:
    """The client and the VM; the VM anew when a test has killed it."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.client: Client = lab.client()
        self._vm = lab.vm()
        self.client.put(TICKET_FILE, f"{self._vm.options.ticket}\n".encode())
        self._introduce()

    @property
    def vm(self) -> Vm:
        """A VM that runs."""
        if not self._vm.running:
            self._vm = self._lab.vm()
            self._introduce()
        return self._vm

    def tidy(self) -> None:
        """Take everything back that a test has left."""
        self.client.network(up=True)
        self.client.unplug_all()
        if self._vm.running:
            self._vm.resume()
            self._vm.wait_no_usb_device()

    def _introduce(self) -> None:
        self.client.put(CA_FILE, self._vm.ca_file.read_bytes())
        self._vm.wait_ready()


@pytest.fixture(scope="session")
def machines(lab: Lab) -> Machines:
    """Both machines."""
    return Machines(lab)


@pytest.fixture
def tidied(machines: Machines) -> Iterator[Machines]:
    """Both machines, tidied up after each test."""
    yield machines
    machines.tidy()


@pytest.fixture
def client(tidied: Machines) -> Client:
    """The client machine, with nothing plugged in."""
    return tidied.client


@pytest.fixture
def vm(tidied: Machines) -> Vm:
    """The virtual machine, with nothing attached."""
    return tidied.vm


@pytest.fixture
def server(lab: Lab) -> Iterator[Callable[[VmOptions], Vm]]:
    """Makes virtual machines for one test; those without a guest are there at once."""
    made: list[Vm] = []

    def make(options: VmOptions) -> Vm:
        made.append(lab.vm(options))
        return made[-1]

    yield make
    for vm in made:
        vm.close()


@pytest.fixture
def usbbridge(client: Client) -> Usbbridge:
    """The command under test, in the client machine."""
    return Usbbridge(client)


@pytest.fixture
def image(lab: Lab, request: pytest.FixtureRequest) -> Path:
    """A disk image of 64 MiB of random bytes."""
    return lab.image(f"{request.node.name.partition('[')[0]}.img", 64 << 20)


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Measured:
    """Notes a time for the summary."""
    return record_property
