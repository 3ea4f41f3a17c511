"""choices.json: what is there after a crash, and what of a damaged one."""

import asyncio
import json
from pathlib import Path

import pytest

from usbbridge.control import memory as module
from usbbridge.control.memory import Memory, load, save
from usbbridge.ipc.api import Choice

CHOICE = Choice(0x0951, 0x1666, "4C530001", "", "desk", "Kingston DataTraveler")
BY_PORT = Choice(0x046D, 0xC52B, "", "1-2", "desk")


def test_nothing_is_remembered_at_first(tmp_path: Path) -> None:
    assert load(tmp_path / "choices.json") == module.Loaded()


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "state" / "choices.json"
    save(path, (CHOICE, BY_PORT))
    assert load(path) == module.Loaded((CHOICE, BY_PORT))
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["choices.json"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 100,
        b'{"version": 1, "choices": [',
        b"[]",
        b'{"version": 2, "choices": []}',
        b'{"version": 1, "choices": [{"vendor": "x"}]}',
        b'{"version": 1, "choices": [1]}',
        b"[" * 100_000,
        b" " * (module.MAX_BYTES + 1),
        json.dumps({"version": 1, "choices": [{}] * (module.MAX_CHOICES + 1)}).encode(),
    ],
    ids=["empty", "zeros", "truncated", "list", "later", "types", "number", "deep", "long", "many"],
)
def test_a_damaged_file_is_set_aside_and_that_is_said(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "choices.json"
    path.write_bytes(data)
    loaded = load(path)
    assert loaded.choices == ()
    assert "damaged" in loaded.notice
    assert (tmp_path / "choices.json.damaged").read_bytes() == data
    assert not path.exists()


def test_one_that_cannot_be_read_is_left_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "choices.json").mkdir()
    loaded = load(tmp_path / "choices.json")
    assert "can't be read" in loaded.notice
    assert (tmp_path / "choices.json").is_dir()


def test_the_old_is_there_until_the_new_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "choices.json"
    save(path, (CHOICE,))

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save(path, (BY_PORT,))
    assert load(path).choices == (CHOICE,)


def test_only_the_latest_is_written_when_much_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, written = tmp_path / "choices.json", []

    def count(path: Path, choices: tuple[Choice, ...]) -> None:
        written.append(choices)
        save(path, choices)

    monkeypatch.setattr(module, "save", count)

    async def run() -> None:
        memory = Memory(path)
        for choices in ((CHOICE,), (BY_PORT,), (CHOICE, BY_PORT)):
            memory.save(choices)
        await memory.settled()

    asyncio.run(run())
    assert written == [(CHOICE, BY_PORT)]
    assert load(path).choices == (CHOICE, BY_PORT)


def test_a_full_disk_is_complained_about_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")

    async def run() -> None:
        memory = Memory(tmp_path / "file" / "choices.json")
        memory.save((CHOICE,))
        await memory.settled()

    asyncio.run(run())
    assert "can't be kept" in caplog.text
