"""Usage of the verbs that run the service's parts, and of those that put it to sleep."""

import pytest

from tests.fakes.service import FakeService
from tests.unit.cli.conftest import Run
from usbbridge.config import Paths


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("service", "SIGTERM and Ctrl-C take every device back"),
        ("control", "becomes the user that the configuration names"),
        ("suspend", "Returns when all are back"),
        ("resume", "Returns at once"),
    ],
)
def test_each_explains_itself(run: Run, verb: str, words: str) -> None:
    status, out, _ = run([verb, "--help"])
    assert status == 0
    assert words in " ".join(out.split())


@pytest.mark.parametrize("verb", ["service", "control", "suspend", "resume"])
@pytest.mark.parametrize("more", ["1-2", "--fast"])
def test_none_takes_arguments(run: Run, verb: str, more: str) -> None:
    assert run([verb, more])[0] == 2


@pytest.mark.parametrize("verb", ["suspend", "resume"])
def test_without_a_service_there_is_nothing_to_suspend(run: Run, paths: Paths, verb: str) -> None:
    status, _, err = run([verb])
    assert status == 4
    assert "not running" in err


@pytest.mark.parametrize("verb", ["service", "control"])
def test_a_wrong_configuration_is_said_before_anything_is_started(run: Run, paths: Paths, verb: str) -> None:
    paths.config.write_text("[vm.desk]\ntarget = 5\n")
    status, _, err = run([verb])
    assert status == 2
    assert "vm.desk" in err


@pytest.mark.parametrize("verb", ["suspend", "resume"])
def test_the_service_is_asked(run: Run, service: FakeService, verb: str) -> None:
    service.answers[verb] = {}
    assert run([verb])[0] == 0
    assert service.asked == [(verb, {})]
