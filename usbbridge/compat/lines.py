"""On which lines of a rule source its tables and keys stand: tomllib reads values, but does not say where they were."""

from dataclasses import dataclass, field

from usbbridge.config.lines import lines_of


@dataclass(slots=True)
class Table:
    """A `[[name]]` header and the keys below it, each with its line, counted from 1."""

    name: str
    line: int
    keys: dict[str, int] = field(default_factory=dict)


def tables(text: str) -> list[Table]:
    """The tables of a document that tomllib can read, in order; what is in none of them is in one named "".

    Whoever asks must hold them against what tomllib has found: documents may have more in them than such tables.
    """
    first, found = Table("", 1), dict[tuple[str | int, ...], Table]()
    for key, line in lines_of(text).items():
        match key:
            case (str(name),):
                first.keys[name] = line
            case (str(name), int()):
                first.keys.pop(name, None)
                found[key] = Table(name, line)
            case (str(), int(), str(name)) if key[:2] in found:
                found[key[:2]].keys[name] = line
    return [first, *found.values()]
