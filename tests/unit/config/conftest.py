from collections.abc import Callable
from pathlib import Path

import pytest

from usbbridge.config import ConfigError, load

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests: the rules are those of an ordinary user's own configuration."""
    monkeypatch.setenv("USBBRIDGE_MODE", "user")
    monkeypatch.delenv("USBBRIDGE_CONFIG", raising=False)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the main file, and drop-ins by name; returns the main file's path."""

    def write(text: str, **drop_ins: str) -> Path:
        main = tmp_path / "usbbridge.toml"
        main.write_text(text)
        (tmp_path / "conf.d").mkdir(exist_ok=True)
        for name, content in drop_ins.items():
            (tmp_path / "conf.d" / f"{name}.toml").write_text(content)
        return main

    return write


def mistakes(main: Path) -> list[str]:
    """What is wrong with a configuration, without the folder's name in front of each."""
    with pytest.raises(ConfigError) as caught:
        load(main)
    return [str(problem).removeprefix(f"{main.parent}/") for problem in caught.value.problems]
