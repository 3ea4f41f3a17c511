"""The machines, booted once for all tests; each test finds them with nothing plugged in and nothing attached."""

import compileall
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.e2e.rig import CA_FILE, TICKET_FILE, Measured, Usbbridge
from tests.e2e.service_rig import Service
from tools.lab import REPOSITORY, Client, Lab, NativeClient, Vm, VmOptions

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
            unit = "" if "[" in what else " s"
            terminalreporter.write_line(f"e2e: {what}: {seconds:.2f}{unit}")


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The lab."""
    # The machines see this tree read-only: without compiled modules there, each start of the command compiles them.
    compileall.compile_dir(REPOSITORY / "usbbridge", quiet=1)
    with Lab(visible=[Path(sys.prefix), Path(sys.base_prefix)]) as made:
        yield made


class Machines:
    """The clients and the VM: a client once a test wants it, the VM anew when a test has killed it."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._service: Service | None = None
        self._client: Client | None = None
        self._native: NativeClient | None = None
        self._vm = lab.vm()

    @property
    def client(self) -> Client:
        """The client, booted when it is first asked for."""
        if self._client is None:
            self._client = self._lab.client()
            self._client.put(TICKET_FILE, f"{self._vm.options.ticket}\n".encode())
            self._client.put(CA_FILE, self._vm.ca_file.read_bytes())
            self._vm.wait_ready()
        return self._client

    @property
    def native(self) -> NativeClient:
        """The client that is as quick as this host, likewise."""
        if self._native is None:
            self._native = self._lab.native_client()
        return self._native

    @property
    def vm(self) -> Vm:
        """A VM that runs."""
        if not self._vm.running:
            self._vm = self._lab.again(self._vm)
            self._vm.wait_ready()
        return self._vm

    def start_service(self) -> Service:
        """The service in the client machine, started if it does not run."""
        if self._service is None:
            self._service = Service(self.client, self.vm)
            self._service.start()
        return self._service

    def end_service(self) -> None:
        """End it, if it runs."""
        if self._service is not None:
            self._service.close()
            self._service = None

    def tidy(self) -> None:
        """Take everything back that a test has left."""
        if self._client is not None:
            self._client.network(up=True)
            self._client.unplug_all()
        if self._native is not None:
            self._native.unplug_all()
        if self._vm.running:
            self._vm.resume()
            self._vm.wait_no_usb_device()


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
def native(tidied: Machines) -> NativeClient:
    """The client machine that is as quick as this host, with nothing plugged in."""
    return tidied.native


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
def usbbridge(tidied: Machines) -> Usbbridge:
    """The command under test, in the client machine, where no service is in its way."""
    tidied.end_service()
    return Usbbridge(tidied.client)


@pytest.fixture
def service(tidied: Machines) -> Service:
    """The service, with nothing plugged in. It runs on for the tests that follow, as its start takes long here."""
    service = tidied.start_service()
    service.begin()
    return service


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What the service has written during a test that failed."""
    report = yield
    service = getattr(item, "funcargs", {}).get("service")
    if report.failed and service is not None:
        report.sections.append(("service", service.story))
    return report


@pytest.fixture
def image(lab: Lab, request: pytest.FixtureRequest) -> Path:
    """A disk image of 32 MiB of random bytes."""
    return lab.image(f"{request.node.name.partition('[')[0]}.img", 32 << 20)


@pytest.fixture
def small(lab: Lab, request: pytest.FixtureRequest) -> Path:
    """One of 16 MiB, which an emulated processor reads in two seconds."""
    return lab.image(f"{request.node.name.partition('[')[0]}.img", 16 << 20)


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Measured:
    """Notes a time for the summary."""
    return record_property
