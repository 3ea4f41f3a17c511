"""What is said of the rules and their database."""

import re
import sqlite3
from pathlib import Path

import pytest

from tests.unit.doctor.conftest import SOMEBODY, Look
from tests.unit.monitor.fake_sysfs import FakeSysfs
from usbbridge.compat import source
from usbbridge.compat.store import Store
from usbbridge.doctor.database import Judge, findings
from usbbridge.doctor.finding import Finding, Level


@pytest.fixture(autouse=True)
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rules that come with usbbridge, of this test alone."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    (folder / "50-all.toml").write_text('[[rule]]\nclass = "08"\nverdict = "allow"\n')
    monkeypatch.setattr(source, "shipped_rules", lambda: folder)
    return folder


def wrong(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.level is not Level.OK]


def test_a_database_that_is_sound(look: Look, shipped: Path, tmp_path: Path) -> None:
    Store.open(tmp_path / "compat.db", [shipped]).close()
    found = list(findings(look()))
    assert wrong(found) == []
    assert [finding.found for finding in found] == [f"1 in {shipped}", f"{tmp_path}/compat.db is sound"]


def test_a_database_that_was_never_made_is_no_problem_and_is_not_made(look: Look, tmp_path: Path) -> None:
    assert wrong(list(findings(look()))) == []
    assert not (tmp_path / "compat.db").exists()


def test_a_damaged_database_is_told_and_left_as_it_is(look: Look, tmp_path: Path) -> None:
    (tmp_path / "compat.db").write_bytes(b"garbage" * 1000)
    (finding,) = wrong(list(findings(look())))
    assert (finding.level, finding.subject) == (Level.WARNING, "database")
    assert "compat.db" in finding.found
    assert (tmp_path / "compat.db").read_bytes() == b"garbage" * 1000
    assert [path.name for path in tmp_path.glob("compat.db*")] == ["compat.db"]


def test_another_programs_database_is_told(look: Look, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "compat.db") as other:
        other.execute("CREATE TABLE bookmarks (url TEXT)")
    other.close()
    assert len(wrong(list(findings(look())))) == 1


def test_a_database_that_others_may_write_is_told(look: Look, shipped: Path, tmp_path: Path) -> None:
    Store.open(tmp_path / "compat.db", [shipped]).close()
    (tmp_path / "compat.db").chmod(0o666)
    (finding,) = wrong(list(findings(look(user=SOMEBODY))))
    assert finding.commands == (f"sudo chmod go-w {tmp_path}/compat.db",)


def test_mistakes_in_rules_are_told_with_file_and_line(look: Look, shipped: Path) -> None:
    (shipped / "60-more.toml").write_text('[[rule]]\nid = "nonsense"\nverdict = "allow"\n')
    found = wrong(list(findings(look())))
    assert found[0].level is Level.PROBLEM
    assert re.search(r"60-more\.toml:\d+: ", found[0].found)


def test_rules_that_are_missing_altogether_are_a_problem(
    look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "shipped_rules", lambda: tmp_path / "nothing")
    (finding,) = wrong(list(findings(look())))
    assert (finding.level, finding.subject) == (Level.PROBLEM, "rules")


def test_the_list_is_asked_itself_when_there_is_no_service(look: Look, sysfs: FakeSysfs) -> None:
    sysfs.stick()
    case = look()
    stick = case.devices.got[-1]
    with Judge(case) as judge:
        assert "50-all.toml:1" in judge.decide(stick).because
        assert judge.decide(stick).verdict == "allow"
