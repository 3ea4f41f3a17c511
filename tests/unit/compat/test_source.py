"""Rule sources: read in order, and all their mistakes told at once."""

from pathlib import Path

import pytest

from usbbridge.compat import source
from usbbridge.compat.rule import Verdict
from usbbridge.compat.source import MAX_FILE, RulesError, Sources, read, read_text


def problems(text: str) -> list[str]:
    found = read_text(Path("50-x.toml"), text)
    return [f"{problem.line}: {problem.reason}" for problem in found.problems]


def write(folder: Path, name: str, *lines: str) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


DENY = ("[[rule]]", 'class = "08"', 'verdict = "deny"')
ALLOW = ("[[rule]]", 'class = "08/06/50"', 'verdict = "allow"')


def test_rules_carry_their_place(tmp_path: Path) -> None:
    write(tmp_path, "50-x.toml", "# first", *DENY, "", "[[identity]]", 'name = "x"', 'ids = ["1:2", "3:4"]')
    found = read([tmp_path])
    assert [rule.where for rule in found.rules] == ["50-x.toml:2"]
    assert [identity.where for identity in found.identities] == ["50-x.toml:6"]
    assert found.problems == ()


def test_files_are_read_in_the_order_of_their_names_and_later_folders_take_the_place_of_earlier_ones(
    tmp_path: Path,
) -> None:
    write(tmp_path / "a", "50-b.toml", *DENY)
    write(tmp_path / "a", "40-a.toml", *DENY)
    write(tmp_path / "b", "50-b.toml", *ALLOW, *DENY)
    write(tmp_path / "b", "45-c.toml", *ALLOW)
    write(tmp_path / "b", "README", "not a source")
    found = read([tmp_path / "a", tmp_path / "b", tmp_path / "none"])
    assert [rule.where for rule in found.rules] == ["40-a.toml:1", "45-c.toml:1", "50-b.toml:1", "50-b.toml:4"]


def test_an_empty_file_does_away_with_a_shipped_one(tmp_path: Path) -> None:
    write(tmp_path / "a", "50-b.toml", *DENY)
    write(tmp_path / "b", "50-b.toml")
    assert read([tmp_path / "a", tmp_path / "b"]) == Sources()


def test_every_mistake_is_told_with_its_line() -> None:
    text = "\n".join(
        [
            "[[rule]]",
            'id = "0781:556"',
            'verdict = "alow"',
            "",
            "[[rule]]  # nothing follows from it",
            'class = "08"',
            "[[rule]]",
            'clas = "08"',
            'verdict = "deny"',
            "speed = [",
            '  "warp",',
            "]",
        ]
    )
    found = [reason.partition(";")[0] for reason in problems(text)]
    assert [reason.split(":")[0] for reason in found] == ["2", "3", "5", "8", "10"]
    assert "VID:PID" in found[0]
    assert found[3] == "8: clas: there is no such key"


def test_rules_without_mistakes_beside_others_are_still_read() -> None:
    found = read_text(Path("50-x.toml"), '[[rule]]\nid = "x"\n[[rule]]\nverdict = "deny"\n')
    assert len(found.rules) == 1
    with pytest.raises(RulesError, match=r"50-x.toml:2: id: "):
        found.check()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[[rule]]\nid = "1:2\n', "2: not TOML"),
        ("[[rule]]\nid = [\n", "3: not TOML"),
        ('verdict = "deny"\n', "1: verdict stands outside of any rule"),
        ('[rule]\nverdict = "deny"\n', "1: rule stands outside of any rule"),
        ('[[rule.deny]]\nid = "1:2"\n', "1: rule stands outside of any rule"),
        ('[[rules]]\nverdict = "deny"\n', "1: there is no [[rules]]; did you mean rule?"),
        ('[[rule]]\nverdict = "deny"\n[rule.more]\nx = 1\n', "3: more: there is no such key"),
        ('[[rule]]\na.b = "deny"\n', "2: a: there is no such key"),
        ("rule = []\n", "1: rule stands outside"),
        ("rule = [1]\n", "1: a source is"),
    ],
)
def test_what_is_no_table_of_rules_is_refused(text: str, expected: str) -> None:
    assert problems(text)[0].startswith(expected)


@pytest.mark.parametrize(
    "text", ['\n[["rule"]]\n"verdict" = "deny"\n', '\nrule = [{verdict = "deny"}]', "\n[[ rule ]]\r\nverdict = 'deny'"]
)
def test_a_rule_is_one_however_it_is_written(text: str) -> None:
    found = read_text(Path("50-x.toml"), text)
    assert [(rule.verdict, rule.where) for rule in found.rules] == [(Verdict.DENY, "50-x.toml:2")]


def test_lines_are_right_in_a_file_from_windows() -> None:
    assert problems('# x\r\n[[rule]]\r\nid = """a\r\nb"""\r\nverdict = "deny"\r\nspeed = "x"\r\n')[1].startswith(
        "6: speed"
    )


def test_files_that_can_not_be_used_are_told(tmp_path: Path) -> None:
    write(tmp_path, "50-open.toml", *DENY).chmod(0o666)
    write(tmp_path, "rules.toml", *DENY)
    (tmp_path / "60-latin.toml").write_bytes(b"# \xfc\n")
    (tmp_path / "70-gone.toml").symlink_to(tmp_path / "nowhere")
    with (tmp_path / "80-big.toml").open("wb") as file:
        file.truncate(MAX_FILE + 1)
    reasons = {problem.file.name: problem.reason for problem in read([tmp_path]).problems}
    assert "anyone may write" in reasons["50-open.toml"]
    assert "NN-NAME.toml" in reasons["rules.toml"]
    assert "byte 2 is not UTF-8" in reasons["60-latin.toml"]
    assert "No such file" in reasons["70-gone.toml"]
    assert "limit" in reasons["80-big.toml"]


def test_a_rule_that_is_never_reached_or_there_twice_is_told_but_not_fatal(tmp_path: Path) -> None:
    write(tmp_path, "40-a.toml", *DENY)
    write(tmp_path, "50-b.toml", *ALLOW, *DENY)
    found = read([tmp_path])
    assert [str(problem) for problem in found.problems] == [
        f"{tmp_path}/50-b.toml:1: never reached: 40-a.toml:1 comes first and matches everything this one does",
        f"{tmp_path}/50-b.toml:4: there twice, the same: 40-a.toml:1 comes first",
    ]
    found.check()


def test_one_folder_may_overrule_another(tmp_path: Path) -> None:
    write(tmp_path / "a", "50-b.toml", *ALLOW)
    write(tmp_path / "b", "10-a.toml", *DENY)
    assert read([tmp_path / "a", tmp_path / "b"]).problems == ()


def test_the_fingerprint_changes_with_names_and_contents(tmp_path: Path) -> None:
    file = write(tmp_path, "50-b.toml", *ALLOW)
    seen = {source.fingerprint([tmp_path])}
    file.write_text(file.read_text().replace("allow", "denys"))
    seen.add(source.fingerprint([tmp_path]))
    file.rename(tmp_path / "51-b.toml")
    seen.add(source.fingerprint([tmp_path]))
    assert len(seen) == 3
