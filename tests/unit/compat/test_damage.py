"""A database in any state: older, damaged, somebody else's, read-only, replaced while it is open."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.compat.conftest import OpenStore
from tests.unit.compat.devices import KEYBOARD, STICK
from usbbridge.compat import damage, schema
from usbbridge.compat.form import rule_of
from usbbridge.compat.opening import StoreError
from usbbridge.compat.rule import Verdict
from usbbridge.compat.store import Store
from usbbridge.errors import NotPermittedError

NOBODY = 65534


def filled(open_store: OpenStore, rules: int = 300) -> None:
    """A database of some pages, with local rules, outcomes and counts."""
    with open_store() as store:
        store.add_all([rule_of({"id": f"0781:{n:04x}", "verdict": "deny", "note": "x" * 100}) for n in range(rules)])
        for product in range(100):
            store.record(0x1234, product, 0x0100, "failed", "DeviceError", "m" * 200)


def asides(database: Path) -> list[Path]:
    return sorted(database.parent.glob("compat.db.damaged-*"))


# ---- older versions


def make(database: Path, version: int) -> None:
    database.parent.mkdir()
    with closing(sqlite3.connect(database)) as raw:
        raw.executescript((Path(__file__).parent / f"version{version}.sql").read_text())


@pytest.mark.parametrize("version", range(1, schema.VERSION))
def test_an_older_database_is_brought_up_to_date_with_what_it_holds(
    open_store: OpenStore, database: Path, version: int
) -> None:
    make(database, version)
    store = open_store()
    assert store.notices == (f"{database} was brought from version {version} to {schema.VERSION}",)
    assert [rule.where for rule in store.local_rules] == ["local:5", "local:3"]
    assert store.decide(STICK).verdict is Verdict.CONNECT
    assert store.decide(KEYBOARD).rule == "50-test.toml:4"
    models = [(m.vendor, m.attached, m.failed, m.ended, m.resets, m.seconds, m.first, m.last) for m in store.models()]
    assert models == ([(0x0781, 1, 1, 1, 4, 60.5, 100.0, 200.0)] if version == 2 else [])
    assert store.add(rule_of({"verdict": "deny"})).where == "local:6"
    store.close()
    assert open_store().notices == ()
    assert asides(database) == []


@pytest.mark.parametrize("version", range(1, schema.VERSION))
def test_an_older_database_can_be_read_without_being_changed(
    open_store: OpenStore, database: Path, version: int
) -> None:
    make(database, version)
    before = database.read_bytes()
    store = open_store(read_only=True)
    assert store.decide(STICK).rule == "local:3"
    assert store.decide(KEYBOARD).rule == "50-test.toml:4"
    assert store.models() == []
    assert database.read_bytes() == before


def test_the_tables_are_the_same_however_old_the_database_was(open_store: OpenStore, tmp_path: Path) -> None:
    paths = [tmp_path / f"{version}" / "compat.db" for version in range(schema.VERSION)]
    for version, path in enumerate(paths):
        if version:
            make(path, version)
        open_store(path).close()
    found = []
    for path in paths:
        with closing(sqlite3.connect(path)) as raw:
            rows = raw.execute("SELECT type, name, sql FROM sqlite_master ORDER BY type, name").fetchall()
            found.append([(kind, name, "".join((sql or "").split())) for kind, name, sql in rows])
    assert found[0] == found[1] == found[2]


# ---- damage


def test_a_file_that_is_no_database_is_set_aside_and_the_rules_are_there_again(
    open_store: OpenStore, database: Path
) -> None:
    database.parent.mkdir()
    database.write_bytes(b"not a database\n" * 1000)
    store = open_store()
    assert store.decide(KEYBOARD).verdict is Verdict.DENY
    (aside,) = asides(database)
    assert aside.read_bytes().startswith(b"not a database")
    assert aside.name in store.notices[0]
    assert "file is not a database" in store.notices[0]
    assert store.notices[1] == "nothing that was learned or added locally could be recovered from it"


def test_an_empty_file_is_a_new_database(open_store: OpenStore, database: Path) -> None:
    database.parent.mkdir()
    database.touch()
    store = open_store()
    assert (store.decide(KEYBOARD).verdict, store.notices) == (Verdict.DENY, ())


def test_of_a_truncated_database_what_is_left_is_recovered(open_store: OpenStore, database: Path) -> None:
    filled(open_store)
    with database.open("r+b") as file:
        file.truncate(database.stat().st_size * 3 // 4)
    store = open_store()
    assert store.decide(KEYBOARD).verdict is Verdict.DENY
    assert len(asides(database)) == 1
    assert "recovered from it" in store.notices[1]
    assert 100 < len(store.local_rules) <= 300
    assert store.record(1, 2, 3, "attached")


def test_of_a_database_with_a_damaged_page_the_rows_on_both_sides_of_it_are_recovered(
    open_store: OpenStore, database: Path
) -> None:
    filled(open_store)
    with closing(sqlite3.connect(database)) as raw:
        root, size = raw.execute("SELECT rootpage FROM sqlite_master WHERE name = 'local_rules'").fetchone()[0], 4096
    content = bytearray(database.read_bytes())
    pages = [
        n
        for n in range(1, len(content) // size)
        if content[n * size] == 0x0D and b"0781:00" in content[n * size :][:size]
    ]
    assert root - 1 not in pages
    middle = pages[len(pages) // 2]
    content[middle * size : (middle + 1) * size] = b"\xa5" * size
    database.write_bytes(content)
    store = open_store()
    numbers = [int(rule.where.removeprefix("local:")) for rule in store.local_rules]
    assert 200 < len(numbers) < 300
    assert (numbers[0], numbers[-1]) == (1, 300)
    assert len(store.models()) == len(store.outcomes(limit=1000)) == 100


def test_a_damaged_database_is_only_told_of_when_nothing_may_be_changed(open_store: OpenStore, database: Path) -> None:
    database.parent.mkdir()
    database.write_bytes(b"x" * 5000)
    store = open_store(read_only=True)
    assert store.decide(KEYBOARD).verdict is Verdict.DENY
    assert "only the sources' rules hold here" in store.notices[0]
    assert database.read_bytes() == b"x" * 5000


def test_another_programs_database_and_one_of_a_newer_version_are_left_whole(
    open_store: OpenStore, database: Path
) -> None:
    database.parent.mkdir()
    with closing(sqlite3.connect(database)) as raw:
        raw.execute("CREATE TABLE theirs (x)")
    with open_store() as store:
        assert "another program" in store.notices[0]
        store.add(rule_of({"class": "08", "verdict": "deny"}))
    with closing(sqlite3.connect(database)) as raw:
        raw.execute("PRAGMA user_version = 99")
    store = open_store(now=2000.0)
    assert "a newer usbbridge made it (version 99" in store.notices[0]
    assert [rule.where for rule in store.local_rules] == ["local:1"]
    assert len(asides(database)) == 2


def test_a_database_that_lacks_a_table_is_damaged(open_store: OpenStore, database: Path) -> None:
    filled(open_store, 3)
    with closing(sqlite3.connect(database)) as raw:
        raw.execute("DROP TABLE models")
    store = open_store()
    assert "it lacks the table models" in store.notices[0]
    assert len(store.local_rules) == 3
    assert len(store.models()) == 100  # counted from the outcomes


def test_few_damaged_databases_are_kept(open_store: OpenStore, database: Path) -> None:
    for number in range(damage.KEPT + 2):
        open_store().close()
        database.write_bytes(b"%d" % number * 5000)
    open_store().close()
    assert len(asides(database)) == damage.KEPT


def test_two_processes_that_find_a_damaged_database_set_it_aside_once(database: Path, sources: Path) -> None:
    database.parent.mkdir()
    database.write_bytes(b"x" * 5000)
    code = (
        "import sys; from pathlib import Path; from usbbridge.compat.store import Store;"
        "store = Store.open(Path(sys.argv[1]), [Path(sys.argv[2])]); print(len(store.notices)); store.close()"
    )
    command = [sys.executable, "-c", code, database, sources]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert sorted(process.communicate()[0].strip() for process in processes) == ["0", "0", "2"]
    assert len(asides(database)) == 1


# ---- while it is open


def test_a_database_that_is_replaced_or_removed_while_open_is_opened_anew(
    open_store: OpenStore, database: Path
) -> None:
    store = open_store()
    other = database.with_name("other.db")
    with open_store(other) as made:
        made.add(rule_of({"class": "08", "verdict": "deny"}))
    for suffix in ("-wal", "-shm"):
        database.with_name(database.name + suffix).unlink()
    other.rename(database)
    assert store.decide(STICK).rule == "local:1"
    for file in database.parent.iterdir():
        file.unlink()
    assert store.decide(STICK).rule == "50-test.toml:1"
    assert store.record(1, 2, 3, "attached")
    assert database.exists()


def test_a_database_that_is_damaged_while_open_costs_no_decision(open_store: OpenStore, database: Path) -> None:
    store = open_store()
    with open_store() as other:  # what this one writes is in the log; it is moved into the file when all have closed
        other.record(1, 2, 3, "failed")
    with database.open("r+b") as file:
        file.write(b"x" * database.stat().st_size)
    with database.with_name(database.name + "-wal").open("r+b") as file:
        file.write(b"x" * 10000)
    assert store.decide(KEYBOARD).verdict is Verdict.DENY
    store.record(1, 2, 3, "attached")
    assert store.record(1, 2, 3, "attached"), store.notices
    assert store.decide(KEYBOARD).verdict is Verdict.DENY
    assert len(asides(database)) == 1


def test_a_folder_in_the_databases_place_is_an_error(open_store: OpenStore, database: Path) -> None:
    database.mkdir(parents=True)
    with pytest.raises(StoreError, match="can't be opened"):
        open_store()


# ---- read-only


@pytest.fixture
def for_nobody() -> Iterator[Path]:
    """A folder that anyone may enter; pytest's own are for their owner alone."""
    folder = Path(tempfile.mkdtemp(prefix="usbbridge-test-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.fixture
def as_nobody() -> Iterator[Callable[[], None]]:
    """Gives up root for the rest of the test, where it is root: nothing is read-only to root."""
    yield lambda: os.setresuid(NOBODY, NOBODY, 0) if os.geteuid() == 0 else None
    if os.getresuid()[2] == 0:
        os.setresuid(0, 0, 0)


@pytest.mark.parametrize("what", ["file", "folder", "both"])
def test_a_database_that_can_not_be_written_is_read(
    for_nobody: Path, as_nobody: Callable[[], None], sources: Path, what: str
) -> None:
    copied = Path(shutil.copytree(sources, for_nobody / "rules"))
    folder = for_nobody / "state"
    database = folder / "compat.db"
    with Store.open(database, [copied]) as store:
        store.add(rule_of({"id": "0781:*", "verdict": "deny"}))
        store.record(1, 2, 3, "attached")
    folder.chmod(0o777 if what == "file" else 0o555)
    database.chmod(0o666 if what == "folder" else 0o444)
    as_nobody()
    with Store.open(database, [copied]) as store:
        assert store.read_only
        assert "can't be written" in store.notices[0]
        assert store.decide(STICK).rule == "local:1"
        assert len(store.models()) == 1
        assert not store.record(1, 2, 3, "attached")
        with pytest.raises(NotPermittedError, match="can't be written"):
            store.remove(1)


def test_where_no_database_can_be_made_the_sources_rules_hold(
    for_nobody: Path, as_nobody: Callable[[], None], sources: Path
) -> None:
    copied = Path(shutil.copytree(sources, for_nobody / "rules"))
    for_nobody.chmod(0o555)
    as_nobody()
    for database in (for_nobody / "compat.db", for_nobody / "state/compat.db"):
        with Store.open(database, [copied]) as store:
            assert store.decide(KEYBOARD).verdict is Verdict.DENY
            assert store.read_only
            assert store.notices


def test_a_reader_without_rights_reads_what_a_running_writer_has_written(
    for_nobody: Path, as_nobody: Callable[[], None], sources: Path
) -> None:
    copied = Path(shutil.copytree(sources, for_nobody / "rules"))
    database = for_nobody / "state/compat.db"
    with Store.open(database, [copied]) as writer:
        writer.add(rule_of({"id": "0781:*", "verdict": "deny"}))
        database.parent.chmod(0o755)
        as_nobody()
        with Store.open(database, [copied], read_only=True) as reader:
            assert reader.decide(STICK).rule == "local:1"


FULL = """
import resource, sys
from pathlib import Path
from usbbridge.compat.store import Store
database, sources = Path(sys.argv[1]), Path(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
with Store.open(database, [sources]) as store:
    print(store.record(1, 2, 3, "attached"), [rule.where for rule in store.rules.rules][-1], bool(store.notices))
"""


@pytest.mark.parametrize("limit", [0, 4096, 20000])
@pytest.mark.parametrize("known", [False, True])
def test_a_full_disk_costs_what_would_be_learned_and_no_rule(
    open_store: OpenStore, database: Path, sources: Path, limit: int, known: bool
) -> None:
    if known:
        with open_store() as store:
            store.add(rule_of({"id": "0781:*", "verdict": "deny"}))
        with (sources / "60-more.toml").open("w") as file:
            file.write('[[rule]]\nclass = "07"\nverdict = "deny"\n')
    command = [sys.executable, "-c", FULL, database, sources, str(limit)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "60-more.toml:1" if known else "50-test.toml:4", "True"]
    assert open_store().record(1, 2, 3, "attached")


def test_nothing_is_made_where_only_reading_was_asked_for(open_store: OpenStore, database: Path) -> None:
    store = open_store(read_only=True)
    assert store.decide(KEYBOARD).verdict is Verdict.DENY
    assert not database.parent.exists()
    assert store.models() == store.outcomes() == []
