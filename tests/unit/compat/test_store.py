"""The list in its database: rules, local ones, what is learned, and other processes that change it."""

import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.unit.compat.conftest import OpenStore
from tests.unit.compat.devices import KEYBOARD, STICK, device
from usbbridge.compat import outcomes
from usbbridge.compat.form import rule_of
from usbbridge.compat.rule import Verdict
from usbbridge.compat.source import RulesError
from usbbridge.errors import NotFoundError, NotPermittedError, RefusedError

ALLOW = '[[rule]]\nclass = "03"\nverdict = "allow"\n'


def test_a_new_database_has_the_rules_of_the_sources(open_store: OpenStore, database: Path) -> None:
    store = open_store()
    assert (store.decide(STICK).verdict, store.decide(KEYBOARD).verdict) == (Verdict.ALLOW, Verdict.DENY)
    assert store.decide(STICK).rule == "50-test.toml:1"
    assert store.notices == ()
    assert database.stat().st_mode & 0o777 == 0o644


def test_rules_and_what_was_learned_outlive_the_process(open_store: OpenStore) -> None:
    with open_store() as store:
        store.add(rule_of({"id": "0781:*", "verdict": "deny"}))
        store.record(0x0781, 0x5567, 0x0100, "attached")
    store = open_store()
    assert store.decide(STICK).rule == "local:1"
    assert [model.attached for model in store.models()] == [1]


# ---- local rules


def test_local_rules_come_before_the_sources_and_in_their_order(open_store: OpenStore) -> None:
    store = open_store()
    second = store.add(rule_of({"id": "0781:*", "verdict": "ask"}))
    first = store.add(rule_of({"id": "0781:5567", "verdict": "connect"}), first=True)
    last = store.add(rule_of({"class": "08", "verdict": "deny"}))
    assert [rule.where for rule in store.local_rules] == [first.where, second.where, last.where]
    assert store.decide(STICK).verdict is Verdict.CONNECT


def test_a_local_rule_that_is_removed_holds_no_more_and_its_number_is_never_given_again(open_store: OpenStore) -> None:
    store = open_store()
    assert store.add(rule_of({"id": "0781:*", "verdict": "deny"})).where == "local:1"
    assert store.remove(1).where == "local:1"
    assert store.decide(STICK).verdict is Verdict.ALLOW
    assert store.add(rule_of({"id": "0781:*", "verdict": "deny"})).where == "local:2"
    with pytest.raises(NotFoundError, match="no local rule 1"):
        store.remove(1)


def test_a_local_rule_that_would_never_be_reached_is_refused(open_store: OpenStore) -> None:
    store = open_store()
    store.add(rule_of({"id": "0781:*", "verdict": "deny"}))
    with pytest.raises(RefusedError, match="never reached: local:1"):
        store.add(rule_of({"id": "0781:5567", "verdict": "allow"}))
    with pytest.raises(RefusedError, match="there twice"):
        store.add_all([rule_of({"id": "1234:*", "verdict": "deny"}), rule_of({"id": "0781:*", "verdict": "allow"})])
    assert len(store.local_rules) == 1


def test_a_local_rule_of_another_version_is_passed_over_and_told(open_store: OpenStore, database: Path) -> None:
    open_store().close()
    with sqlite3.connect(database) as raw:
        raw.execute("INSERT INTO local_rules (position, body) VALUES (0, '{\"moon\": \"full\"}'), (1, 'no')")
        raw.execute('INSERT INTO local_rules (position, body) VALUES (2, \'{"class": "08", "verdict": "deny"}\')')
    raw.close()
    store = open_store()
    assert store.decide(STICK).rule == "local:3"
    assert len(store.notices) == 2
    assert "moon: there is no such key" in store.notices[-1]
    store.remove(1)


# ---- sources


def test_changed_sources_are_taken_over_at_the_next_start_or_reload(open_store: OpenStore, sources: Path) -> None:
    store = open_store()
    (sources / "40-more.toml").write_text(ALLOW)
    assert store.decide(KEYBOARD).verdict is Verdict.DENY
    assert store.reload()
    assert store.decide(KEYBOARD).rule == "40-more.toml:1"
    assert not store.reload()
    (sources / "40-more.toml").unlink()
    assert open_store().decide(KEYBOARD).verdict is Verdict.DENY


def test_sources_with_mistakes_leave_the_rules_that_were_known(open_store: OpenStore, sources: Path) -> None:
    store = open_store()
    (sources / "40-more.toml").write_text('[[rule]]\nclass = "x"\n' + ALLOW)
    with pytest.raises(RulesError, match=r"40-more.toml:2: class"):
        store.reload()
    assert store.decide(KEYBOARD).verdict is Verdict.DENY
    for again in (open_store(), open_store(read_only=True)):
        assert again.decide(KEYBOARD).verdict is Verdict.DENY
        assert "40-more.toml:2" in again.notices[0]


def test_a_new_list_is_not_made_of_sources_with_mistakes(open_store: OpenStore, sources: Path) -> None:
    (sources / "40-more.toml").write_text("[[rule]]\n")
    with pytest.raises(RulesError):
        open_store()
    with pytest.raises(RulesError):
        open_store(read_only=True)


# ---- what was learned


def test_outcomes_are_kept_and_counted_by_model(open_store: OpenStore) -> None:
    for now, result in ((10.0, "attached"), (70.0, "ended"), (80.0, "failed")):
        with open_store(now=now) as store:
            seconds = 60.0 if result == "ended" else 0.0
            error = "DeviceError" if result == "failed" else ""
            assert store.record(0x0781, 0x5567, 0x0100, result, error, "why" * bool(error), resets=1, seconds=seconds)
    store = open_store()
    (model,) = store.models(0x0781, 0x5567)
    assert (model.attached, model.failed, model.ended, model.resets, model.seconds) == (1, 1, 1, 3, 60.0)
    assert (model.first, model.last) == (10.0, 80.0)
    assert [outcome.result for outcome in store.outcomes(0x0781)] == ["failed", "ended", "attached"]
    assert (store.outcomes()[0].error, store.outcomes()[0].message) == ("DeviceError", "why")
    assert store.models(0x1234) == store.outcomes(0x0781, 0x0001) == []


def test_only_the_latest_outcomes_of_a_model_are_kept_but_all_are_counted(open_store: OpenStore) -> None:
    store = open_store()
    for _ in range(outcomes.KEPT + 5):
        store.record(1, 2, 3, "attached")
    store.record(1, 2, 4, "attached")
    assert len(store.outcomes(1, 2, limit=1000)) == outcomes.KEPT + 1
    assert [model.attached for model in store.models()] == [outcomes.KEPT + 5, 1]


def test_the_model_not_seen_for_longest_is_forgotten(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "MAX_MODELS", 2)
    for product in (1, 2, 3):
        open_store(now=float(product)).record(9, product, 0, "attached")
    store = open_store()
    assert [model.product for model in store.models()] == [2, 3]
    assert [outcome.product for outcome in store.outcomes()] == [3, 2]


def test_what_is_recorded_is_held_to_limits(open_store: OpenStore) -> None:
    store = open_store()
    assert store.record(1, 2, 3, "failed", "E" * 9999, "m" * 9999, resets=1 << 80, seconds=-5)
    (outcome,) = store.outcomes()
    assert (len(outcome.error), len(outcome.message), outcome.seconds) == (outcomes.MAX_TEXT, outcomes.MAX_TEXT, 0.0)
    with pytest.raises(ValueError, match="no such result"):
        store.record(1, 2, 3, "exploded")


# ---- other processes


def test_rules_that_another_process_adds_hold_at_the_next_decision(open_store: OpenStore) -> None:
    monitor, command = open_store(), open_store()
    assert monitor.decide(STICK).verdict is Verdict.ALLOW
    command.add(rule_of({"id": "0781:*", "verdict": "deny"}))
    assert monitor.decide(STICK).verdict is Verdict.DENY
    command.remove(1)
    assert monitor.decide(STICK).verdict is Verdict.ALLOW
    assert monitor.notices == ()


def test_what_another_process_learns_is_seen_without_reading_the_rules_again(open_store: OpenStore) -> None:
    one, other = open_store(), open_store()
    rules = one.rules
    other.record(1, 2, 3, "attached")
    assert one.rules is rules
    assert len(one.models()) == 1


def test_a_reader_sees_what_a_writer_has_open(open_store: OpenStore) -> None:
    writer = open_store()
    writer.add(rule_of({"id": "0781:*", "verdict": "deny"}))
    reader = open_store(read_only=True)
    assert reader.decide(STICK).verdict is Verdict.DENY
    with pytest.raises(NotPermittedError):
        reader.add(rule_of({"verdict": "deny"}))
    assert not reader.record(1, 2, 3, "attached")
    writer.add(rule_of({"id": "0781:5567", "verdict": "allow"}), first=True)
    assert reader.decide(STICK).verdict is Verdict.ALLOW


WRITER = """
import sys
from pathlib import Path
from usbbridge.compat.form import rule_of
from usbbridge.compat.store import Store
database, sources, me = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
with Store.open(database, [sources]) as store:
    for n in range(25):
        store.add(rule_of({"id": f"{me:04x}:{n:04x}", "verdict": "deny"}))
        assert store.record(me, n, 0, "attached")
        assert store.record(0xffff, 0, 0, "attached")
    assert store.notices == (), store.notices
"""


def test_several_processes_write_at_once_and_nothing_is_lost(
    open_store: OpenStore, database: Path, sources: Path
) -> None:
    command = [sys.executable, "-c", WRITER, database, sources]
    writers = [subprocess.Popen([*command, str(number)], stderr=subprocess.PIPE) for number in range(1, 5)]
    assert [(writer.communicate()[1], writer.returncode) for writer in writers] == [(b"", 0)] * 4
    store = open_store()
    assert len(store.local_rules) == 100
    assert len({rule.where for rule in store.local_rules}) == 100
    assert len(store.models()) == 101
    assert [model.attached for model in store.models(0xFFFF)] == [100]


def test_a_database_that_stays_locked_costs_one_outcome_and_no_decision(
    open_store: OpenStore, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usbbridge.compat.opening.BUSY_SECONDS", 0.05)
    store = open_store()
    blocker = sqlite3.connect(database, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    assert not store.record(1, 2, 3, "attached")
    assert "locked" in store.notices[0]
    assert store.decide(STICK).verdict is Verdict.ALLOW
    blocker.execute("ROLLBACK")
    blocker.close()
    assert store.record(1, 2, 3, "attached")


def test_a_database_that_stays_locked_is_waited_for_once(
    open_store: OpenStore, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usbbridge.compat.opening.BUSY_SECONDS", 0.5)
    store = open_store()
    blocker = sqlite3.connect(database, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    begun = time.monotonic()
    assert not any(store.record(1, 2, number, "attached") for number in range(10))
    assert time.monotonic() - begun < 2.5
    blocker.close()
    assert store.record(1, 2, 3, "attached")


LOCKER = """
import fcntl, struct, sys
log = open(sys.argv[1], "rb")
fcntl.lockf(log, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, 120)  # WAL_WRITE_LOCK (sqlite.org/walformat.html)
print("locked", flush=True)
sys.stdin.read()
"""


def test_who_may_only_read_the_database_can_lock_it_but_keeps_nobody_from_starting(
    open_store: OpenStore, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usbbridge.compat.opening.BUSY_SECONDS", 0.05)
    first = open_store()
    first.add(rule_of({"id": "0781:*", "verdict": "deny"}))
    log = database.with_name(database.name + "-shm")
    command = [sys.executable, "-c", LOCKER, log]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as locker:
        assert locker.stdout is not None
        assert locker.stdout.readline() == b"locked\n"
        second = open_store()
        assert second.decide(STICK).rule == "local:1"
        assert "locked" in second.notices[0]
        locker.kill()
    assert open_store().record(1, 2, 3, "attached")


def test_a_decision_is_remembered_for_as_long_as_the_device_is_the_same(open_store: OpenStore) -> None:
    store = open_store()
    assert store.decide(STICK) is store.decide(STICK)
    assert store.decide(device("0781:5567", "08/06/50", "03/01/01")).verdict is Verdict.DENY
    for number in range(300):
        store.decide(device(f"0781:{number:x}", "08/06/50"))
    assert store.decide(STICK).verdict is Verdict.ALLOW


KILLED = """
import sys
from pathlib import Path
from usbbridge.compat.store import Store
store = Store.open(Path(sys.argv[1]), [Path(sys.argv[2])])
number = 0
while store.record(7, number % 5, 0, "attached"):
    number += 1
    print(number, flush=True)
"""


def test_what_was_recorded_outlives_a_process_that_is_killed(
    open_store: OpenStore, database: Path, sources: Path
) -> None:
    said = 0
    for lines in (1, 7, 30):
        command = [sys.executable, "-c", KILLED, database, sources]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(lines):
                writer.stdout.readline()
            writer.kill()
            said += lines + len(writer.stdout.readlines())
        store = open_store()
        assert store.notices == ()
        counted = sum(model.attached for model in store.models())
        assert said <= counted <= said + 1  # the last one may have been kept and not told any more
        said = counted
