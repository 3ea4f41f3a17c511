from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from usbbridge.compat.store import Store

OpenStore = Callable[..., Store]


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A folder with one source: storage is allowed, input denied."""
    folder = tmp_path / "rules"
    folder.mkdir()
    text = '[[rule]]\nclass = "08"\nverdict = "allow"\n[[rule]]\nclass = "03"\nverdict = "deny"\n'
    (folder / "50-test.toml").write_text(text)
    return folder


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "state" / "compat.db"


@pytest.fixture
def open_store(database: Path, sources: Path) -> Iterator[OpenStore]:
    """Opens the list of these two; what is opened is closed when the test ends."""
    opened: list[Store] = []

    def open_store(path: Path = database, *, read_only: bool = False, now: float = 1000.0) -> Store:
        store = Store.open(path, [sources], read_only=read_only, clock=lambda: now)
        opened.append(store)
        return store

    yield open_store
    for store in opened:
        store.close()
