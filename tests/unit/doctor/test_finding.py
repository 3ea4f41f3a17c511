"""How findings are shown."""

from dataclasses import replace

from usbbridge.doctor.finding import WIDTH, Finding, Level, as_lines, as_object, ok, problem, summary, warning

FINDINGS = [
    replace(ok("libusb", "1.0.30"), area="Software"),
    replace(warning("1-2 Stick", "is in use", "it could lose data", "free it:", "umount '/mnt/a b'"), area="Devices"),
    replace(problem("VM desk", "it is off"), area="Virtual machines"),
]


def text(findings: list[Finding]) -> list[str]:
    return [line for _, line in as_lines(findings)]


def test_each_finding_has_its_reason_and_its_remedy_below_it() -> None:
    assert text(FINDINGS) == [
        "Software",
        "  ok       libusb: 1.0.30",
        "",
        "Devices",
        "  warning  1-2 Stick: is in use",
        "           why: it could lose data",
        "           do:  free it:",
        "           $ umount '/mnt/a b'",
        "",
        "Virtual machines",
        "  problem  VM desk: it is off",
        "",
        "1 problem, 1 warning.",
    ]


def test_the_line_with_the_level_says_which() -> None:
    assert [level for level, _ in as_lines(FINDINGS) if level] == [Level.OK, Level.WARNING, Level.PROBLEM]


def test_long_reasons_are_wrapped_and_long_commands_are_not() -> None:
    command = "virsh " + "x" * WIDTH
    lines = text([warning("a", "b", "word " * 60, "", command)])
    assert all(len(line) <= WIDTH for line in lines if "$" not in line)
    assert f"           $ {command}" in lines
    assert len([line for line in lines if line.startswith("                word")]) >= 2


def test_nobody_elses_words_reach_the_terminal_unprintable() -> None:
    lines = text([problem("VM \x1b[2J", "says \x1b]0;gotcha\x07", "because\x9b", "do\x1b", "run \x1b\nrm")])
    assert all(character.isprintable() for line in lines for character in line)


def test_a_command_that_can_not_be_shown_as_it_is_is_not_shown() -> None:
    assert not [line for line in text([warning("a", "b", "", "", "umount '/mnt/a\nb'")]) if "$" in line]


def test_the_end_counts_what_is_wrong() -> None:
    assert summary([]) == "No problems."
    assert summary([ok("a", "b")]) == "No problems."
    assert summary([problem("a", "b"), problem("c", "d")]) == "2 problems."
    assert summary([warning("a", "b"), problem("c", "d"), warning("e", "f")]) == "1 problem, 2 warnings."


def test_programs_get_everything() -> None:
    assert as_object(FINDINGS[1:2]) == {
        "problems": 0,
        "warnings": 1,
        "findings": [
            {
                "area": "Devices",
                "subject": "1-2 Stick",
                "level": "warning",
                "found": "is in use",
                "why": "it could lose data",
                "remedy": "free it:",
                "commands": ["umount '/mnt/a b'"],
            }
        ],
    }
    assert as_object(FINDINGS[:1])["findings"][0]["why"] is None
