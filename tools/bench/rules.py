"""How long the compatibility list takes for a decision: `python -m tools.bench.rules [RULES]`, 10,000 by default.

It makes a list of so many rules, as sources and in a database as in service, and judges devices of several kinds: those
that the first rule is about, the last, and none. Times are of whole decisions, none of them remembered from before
unless it says so: by the clock, and of the processor, which a busy machine does not stretch.
"""

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from usbbridge.compat.form import toml_of
from usbbridge.compat.saved import made_up
from usbbridge.compat.source import read, shipped_rules
from usbbridge.compat.store import Store
from usbbridge.usb.entry import DeviceEntry, InterfaceEntry

ROUNDS: Final = 2000
STORAGE: Final = (8, 6, 0x50)
AUDIO: Final = (1, 1, 0)
KEYS: Final = (3, 0, 0)


def rule_tables(number: int) -> Iterator[dict[str, Any]]:
    """Rules as fleets have them: most by id, some by serial number or port, a hundredth by nothing but wildcards."""
    chance = random.Random(1)
    for n in range(number):
        kind = chance.random()
        ids = f"{0x1000 + n % 1000:04x}:{n:04x}"
        if kind < 0.80:
            yield {"id": ids, "verdict": "allow"}
        elif kind < 0.90:
            yield {"id": ids, "serial": f"{n}*", "verdict": "connect"}
        elif kind < 0.95:
            yield {"serial": f"SN{n:06}", "verdict": "deny"}
        elif kind < 0.99:
            yield {"port": f"{n % 9 + 1}-{n}", "class": "08", "verdict": "deny"}
        else:
            yield {"serial": f"?N{n:06}*", "verdict": "deny"}


def device(vendor: int, product: int, *triples: tuple[int, int, int], serial: str = "") -> DeviceEntry:
    interfaces = [InterfaceEntry(number, 0, *triple, "") for number, triple in enumerate(triples)]
    return made_up((vendor, product), interfaces, serial=serial, port="1-2")


Times = list[tuple[float, float]]
"Milliseconds of each decision: by the clock, and of the processor."


def timed(decide: Callable[[DeviceEntry], object], entry: DeviceEntry) -> Times:
    """The times of ROUNDS decisions."""
    found = []
    for _ in range(ROUNDS):
        clock, processor = time.perf_counter(), time.thread_time()
        decide(entry)
        found.append(((time.perf_counter() - clock) * 1e3, (time.thread_time() - processor) * 1e3))
    return found


def show(what: str, times: Times) -> None:
    """One line of figures."""
    clock, processor = zip(*times, strict=True)
    texts = [
        f"{statistics.median(each):.4f} / {statistics.quantiles(each, n=100)[-1]:.4f}" for each in (clock, processor)
    ]
    print(f"{what:34} ms median / p99: {texts[0]:>18} by the clock {texts[1]:>18} of the processor")


def main(number: int) -> None:
    """Print the times for a list of `number` rules and the shipped ones."""
    with tempfile.TemporaryDirectory() as folder:
        sources = Path(folder, "rules")
        sources.mkdir()
        (sources / "20-many.toml").write_text("\n".join(toml_of(table) for table in rule_tables(number)))
        start = time.perf_counter()
        problems = read([sources]).problems
        print(f"{'sources read and checked':34} {time.perf_counter() - start:8.2f} s, {len(problems)} problems")
        for what in ("database made", "database opened"):
            start = time.perf_counter()
            store = Store.open(Path(folder, "compat.db"), [sources, shipped_rules()])
            print(f"{what:34} {time.perf_counter() - start:8.2f} s, {len(store.rules.rules)} rules")
            if what == "database made":
                store.close()
        judge_all(store)
        store.close()


def judge_all(store: Store) -> None:
    """Judge devices of several kinds."""
    judge = store.rules.judge
    show("by id, first rule", timed(judge, device(0x1000, 0, STORAGE)))
    show("by class, last rules", timed(judge, device(0x0781, 0x5567, STORAGE, serial="4C53")))
    show("headset, 5 interfaces", timed(judge, device(0x046D, 0x0A44, AUDIO, AUDIO, AUDIO, AUDIO, KEYS)))
    show("32 interfaces, no rule", timed(judge, device(0x9999, 1, *[(0xFF, n, 0) for n in range(32)])))
    show("in the database, remembered", timed(store.decide, device(0x0781, 0x5567, STORAGE, serial="4C53")))
    fresh = iter(device(0x0781, product, STORAGE, serial="4C53") for product in range(ROUNDS))
    show("in the database, a new device", timed(lambda _: store.decide(next(fresh)), device(0, 0)))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
