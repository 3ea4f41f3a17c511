"""From files to a Config, or to every mistake in them."""

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.config.conftest import Write, mistakes
from usbbridge.config import Access, Assign, Auto, ConfigError, Retry, Vm, examine, load
from usbbridge.config.checking import MAX_ASSIGNMENTS, MAX_VMS, SECTIONS
from usbbridge.config.loading import MAX_FILE, MAX_FILES, unsafe

EVERYTHING = """
default-vm = "desk"
[vm.desk]
target = "spice+tls://host:5901"
password-file = "desk.password"
ca-file = "/etc/ca.pem"
host-subject = "O=Example,CN=desk"
compression = "never"
[vm.lab]
target = ["tcp://host:4000", "unix:/run/lab.sock"]
[[assign]]
vm = "lab"
device = "951:1666"
serial = "4C530001"
[[assign]]
vm = "lab"
device = "1-2.3"
[access]
view = "attachers"
users = ["anna"]
groups = []
[auto]
connect = false
remember = "port"
[retry]
first = 2
longest = 30.5
[monitor]
source = "kernel"
rules = ["more", "/srv/rules"]
user = "bridge"
[paths]
control-socket = "/tmp/control.sock"
"""


def test_every_key_ends_up_in_its_field(write: Write) -> None:
    main = write(EVERYTHING)
    config = load(main)
    folder = main.parent
    ca = Path("/etc/ca.pem")
    assert config.vms == (
        Vm("desk", ("spice+tls://host:5901",), folder / "desk.password", ca, "O=Example,CN=desk", "never"),
        Vm("lab", ("tcp://host:4000", "unix:/run/lab.sock")),
    )
    assert config.default_vm == "desk"
    assert config.assignments == (Assign("lab", "0951:1666", "4C530001"), Assign("lab", "1-2.3"))
    assert config.access == Access("attachers", ("anna",), ())
    assert config.auto == Auto(connect=False, remember="port")
    assert config.retry == Retry(2.0, 30.5)
    assert config.monitor.source == "kernel"
    assert config.monitor.rules == (folder / "more", Path("/srv/rules"))
    assert config.paths.control_socket == Path("/tmp/control.sock")
    assert config.files == (main,)


def test_nothing_configured_means_the_defaults(write: Write) -> None:
    config = load(write("# nothing yet\n"))
    assert (config.vms, config.default_vm, config.assignments) == ((), "", ())
    assert (config.access, config.auto, config.retry) == (Access(), Auto(), Retry())


def test_the_only_vm_is_the_default_and_of_several_none_is(write: Write) -> None:
    assert load(write('[vm.desk]\ntarget = "spice://h:1"')).default_vm == "desk"
    assert load(write('[vm.a]\ntarget = "spice://h:1"\n[vm.b]\ntarget = "spice://h:2"')).default_vm == ""


def test_a_drop_in_overrides_key_by_key_in_the_order_of_names(write: Write) -> None:
    main = write(
        '[vm.desk]\ntarget = "spice://h:1"\ncompression = "never"\n[retry]\nfirst = 2',
        b='[retry]\nfirst = 4\n[vm.desk]\npassword-file = "/b"',
        a='[retry]\nfirst = 3\nlongest = 9\n[vm.desk]\ntarget = "spice://h:2"',
    )
    config = load(main)
    assert config.vms == (Vm("desk", ("spice://h:2",), Path("/b"), compression="never"),)
    assert config.retry == Retry(4.0, 9.0)
    assert [file.name for file in config.files] == ["usbbridge.toml", "a.toml", "b.toml"]


def test_assignments_of_a_later_file_are_asked_first(write: Write) -> None:
    vms = '[vm.a]\ntarget = "spice://h:1"\n[vm.b]\ntarget = "spice://h:2"\n'
    main = write(
        vms + '[[assign]]\nvm = "a"\ndevice = "1-1"\n[[assign]]\nvm = "a"\ndevice = "1-2"',
        site='[[assign]]\nvm = "b"\ndevice = "1-1"',
    )
    assert load(main).assignments == (Assign("b", "1-1"), Assign("a", "1-1"), Assign("a", "1-2"))


def test_only_toml_files_that_are_not_hidden_are_drop_ins(write: Write) -> None:
    main = write("")
    for name in (".hidden.toml", "old.toml~", "new.toml.dpkg-new", "README"):
        (main.parent / "conf.d" / name).write_text("not TOML at all")
    assert load(main).files == (main,)


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("defalt-vm = 1", "usbbridge.toml:1: defalt-vm: there is no such key; is 'default-vm' meant?"),
        ("default_vm = 1", "usbbridge.toml:1: default_vm: there is no such key; is 'default-vm' meant?"),
        ("\n[acces]", "usbbridge.toml:2: acces: there is no such table; is 'access' meant?"),
        ("[[vms]]", "usbbridge.toml:1: vms: there is no such table; is 'vm' meant?"),
        ("[retry]\nusers = []", "usbbridge.toml:2: retry.users: there is no such key here; it belongs in [access]"),
        ("[auto]\ntarget = 1", "usbbridge.toml:2: auto.target: there is no such key here; it belongs in [vm.NAME]"),
        ("[auto]\nxyz = 1", "usbbridge.toml:2: auto.xyz: there is no such key; there are connect, remember, follow"),
        ("access = 3", "usbbridge.toml:1: access: must be a table, not 3"),
        ("assign = 3", "usbbridge.toml:1: assign: must be written as [[assign]]"),
        ("[assign]\nvm = 'a'", "usbbridge.toml:1: assign: must be written as [[assign]]"),
        ("[[vm]]\nname = 'a'", "usbbridge.toml:1: vm: must be written as [vm.NAME]"),
        ("[vm]\ntarget = 'a'", "usbbridge.toml:1: vm: must be written as [vm.NAME]"),
        ("[vm]\ndesk = 'a'", 'usbbridge.toml:2: vm.desk: must be a table, not "a"'),
        ("[vm.desk]", "usbbridge.toml:1: vm.desk: has no target: where is this VM?"),
        ("default-vm = 'desk'", "usbbridge.toml:1: default-vm: there is no VM 'desk'; write [vm.desk]"),
        (
            "[retry]\nfirst = 9\nlongest = 8",
            "usbbridge.toml:2: retry: `first` (9 s) is longer than `longest` (8 s)",
        ),
        (
            "[paths]\ndatabase = '/a'\nchoices = '/a'",
            "usbbridge.toml:3: paths.choices: is the same as paths.database: /a",
        ),
        ("a = = 1", "usbbridge.toml:1: is not TOML: Invalid value (column 5)"),
        ("access = 0x" + "f" * 9999, "usbbridge.toml:1: access: must be a table, not a number beyond all measure"),
        ("x = 1\nx = ''\n", "usbbridge.toml:2: is not TOML: Cannot overwrite a value (column 7)"),
        ('\nx = "a', "usbbridge.toml:2: is not TOML: Unterminated string (at end of document)"),
    ],
)
def test_a_mistake_is_named_with_file_line_and_key(write: Write, text: str, mistake: str) -> None:
    (found,) = mistakes(write(text))
    assert found == mistake


VMS = "[vm.desk]\ntarget = 'spice://h:1'\n[vm.raw]\ntarget = 'tcp://h:2'\n"


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("[[assign]]\ndevice = '1-1'", "5: assign: does not say to which `vm`"),
        ("[[assign]]\nvm = 'desk'", "5: assign: does not say which device: give `device`, `serial`, or both"),
        ("[[assign]]\nvm = 'dsk'\ndevice = '1-1'", "6: assign.vm: there is no VM 'dsk'; is 'desk' meant?"),
        (
            "[[assign]]\nvm = 'desk'\ndevice = 'ABC:1'\n[[assign]]\nvm = 'raw'\ndevice = '0abc:0001'",
            "8: assign: is never reached: line 5 is about the same device",
        ),
        ("password-file = '/x'", "5: vm.raw.password-file: is for SPICE, not for raw targets"),
        ("ca-file = '/x'", "5: vm.raw.ca-file: is for TLS: name a target with a TLS port"),
        (
            "[vm.c]\ntarget = 'spice://h:1'",
            "6: vm.c.target: spice://h:1 is vm.desk already, and serves one client at a time",
        ),
        ("[vm.c]\ntarget = ['tcp://h:9', 'tcp://h:9']", "6: vm.c.target: names the same target twice"),
        (
            "[vm.c]\ntarget = ['tcp://h:9', 'spice://h:8']",
            "6: vm.c.target: a VM is one SPICE server, which has all its channels, "
            "or any number of raw targets (tcp, unix)",
        ),
    ],
)
def test_what_does_not_go_together_is_named(write: Write, text: str, mistake: str) -> None:
    assert mistakes(write(VMS + text)) == [f"usbbridge.toml:{mistake}"]


def test_all_mistakes_are_told_at_once_file_by_file_and_line_by_line(write: Write) -> None:
    main = write(
        "default-vm = 'dek'\n[vm.desk]\ntarget = 'spice://h:1'\ncompression = 3\n[retry]\nfirst = 0",
        extra="nonsense = 1",
    )
    assert mistakes(main) == [
        "usbbridge.toml:1: default-vm: there is no VM 'dek'; is 'desk' meant?",
        'usbbridge.toml:4: vm.desk.compression: must be "auto" or "never", not 3',
        "usbbridge.toml:6: retry.first: must be 0.1 to 86400 seconds, not 0",
        "conf.d/extra.toml:1: nonsense: there is no such key; there are default-vm",
    ]


def test_a_wrong_value_is_told_even_where_a_later_file_overrides_it(write: Write) -> None:
    assert len(mistakes(write("[retry]\nfirst = 'soon'", fix="[retry]\nfirst = 1"))) == 1


def test_a_wrong_target_is_one_mistake_not_a_missing_target_too(write: Write) -> None:
    (mistake,) = mistakes(write("[vm.desk]\ntarget = 'host'"))
    assert mistake.startswith("usbbridge.toml:2: vm.desk.target: 'host' does not name a VM: it does not say how")


def test_one_mistake_is_the_message_and_several_are_a_list(write: Write) -> None:
    with pytest.raises(ConfigError, match=r"^/.*toml:1: x: there is no such key"):
        load(write("x = 1"))
    with pytest.raises(ConfigError, match=r"^2 mistakes in the configuration:\n  /.*:1: x: .*\n  /.*:2: y: "):
        load(write("x = 1\ny = 1"))


def test_there_are_limits_to_how_many(write: Write) -> None:
    vms = "".join(f"[vm.v{n}]\ntarget = 'tcp://h:{n + 1}'\n" for n in range(MAX_VMS + 1))
    assert mistakes(write(vms)) == [f"usbbridge.toml:129: vm: there are 65 of these tables, {MAX_VMS} is the most"]
    assign = "".join(f"[[assign]]\nvm = 'a'\nserial = '{n}'\n" for n in range(MAX_ASSIGNMENTS + 1))
    (mistake,) = mistakes(write("[vm.a]\ntarget = 'tcp://h:1'\n" + assign))
    assert mistake.endswith("assign: there are 1025 of these tables, 1024 is the most")


def test_there_are_limits_to_files(write: Write) -> None:
    assert mistakes(write("#" * MAX_FILE + "\n")) == ["usbbridge.toml: is larger than 1 MiB"]
    main = write("", **{f"f{n:03}": "" for n in range(MAX_FILES + 1)})
    assert mistakes(main) == ["conf.d: has 257 files, 256 is the most"]


def test_what_is_no_text_file_is_refused_without_waiting_for_it(write: Write, tmp_path: Path) -> None:
    main = write("")
    os.mkfifo(tmp_path / "conf.d/fifo.toml")
    (tmp_path / "conf.d/folder.toml").mkdir()
    (tmp_path / "conf.d/latin.toml").write_bytes(b"# fine\n# caf\xe9\n")
    (tmp_path / "conf.d/nested.toml").write_text("x = " + "[" * 5000 + "]" * 5000)
    assert mistakes(main) == [
        "conf.d/fifo.toml: is not a file",
        "conf.d/folder.toml: is not a file",
        "conf.d/latin.toml:2: is not UTF-8",
        "conf.d/nested.toml: is nested too deeply",
    ]


def test_a_number_that_python_does_not_read_is_a_mistake_too(write: Write) -> None:
    (mistake,) = mistakes(write("x = " + "9" * 5000))
    assert mistake.startswith("usbbridge.toml: is not usable: Exceeds the limit")


def test_a_file_that_can_not_be_read_hides_what_others_seem_to_lack(write: Write) -> None:
    (mistake,) = mistakes(write("default-vm = 'desk'", vms="[vm.desk"))
    assert mistake.startswith("conf.d/vms.toml:1: is not TOML: ")


def test_a_file_that_was_named_has_to_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main = tmp_path / "none.toml"
    assert mistakes(main) == ["none.toml: can't be read: No such file or directory"]
    monkeypatch.setenv("USBBRIDGE_CONFIG", str(main))
    with pytest.raises(ConfigError):
        load()


def test_without_any_file_the_defaults_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    config = load()
    assert config.files == ()
    assert config.monitor.rules == (tmp_path / "usbbridge/rules.d",)


def test_a_link_to_nothing_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "usbbridge").mkdir()
    (tmp_path / "usbbridge/usbbridge.toml").symlink_to("nowhere")
    with pytest.raises(ConfigError, match="can't be read"):
        load()


words = st.sampled_from(sorted({key for keys in SECTIONS.values() for key in keys} | SECTIONS.keys() - {""}))
scalars = st.one_of(
    st.text(max_size=8).map(json.dumps),
    st.sampled_from(
        ["0x" + "f" * 5000, "inf", "nan", "1979-05-27", "true", "{}", "[]", "''", '"~nobody-at-all"', '"1-2"']
    ),
    st.sampled_from(["'spice://h:1'", "['tcp://h:2']", "[1]", "[[]]", "[{}]", "5", "2.5", "'auto'", "'\U0001f50c'"]),
)
lines = st.one_of(
    st.tuples(words, scalars).map(" = ".join),
    words.map("[{}]".format),
    words.map("[[{}]]".format),
    st.tuples(words, words).map("[{0[0]}.{0[1]}]".format),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(lines, max_size=10).map("\n".join))
def test_whatever_is_written_gives_a_configuration_or_mistakes_with_their_lines(write: Write, text: str) -> None:
    loaded = examine(write(text))
    assert (loaded.config is None) == bool(loaded.problems)
    assert all(problem.origin.line or not problem.key for problem in loaded.problems)


# ---- in system mode, who can write what root obeys


def status(mode: int, uid: int = 0) -> os.stat_result:
    return os.stat_result((stat.S_IFREG | mode, 0, 0, 1, uid, 0, 0, 0, 0, 0))


def test_root_obeys_only_what_only_root_can_write() -> None:
    file = Path("/etc/hostname")
    assert list(unsafe(file, status(0o644))) == []
    assert list(unsafe(file, status(0o664))) == [f"others than its owner may write to it (chmod go-w {file})"]
    assert list(unsafe(file, status(0o646))) == [f"others than its owner may write to it (chmod go-w {file})"]
    assert list(unsafe(file, status(0o600, uid=4711))) == [f"it belongs to 4711, not to root (chown root {file})"]


def test_a_folder_that_others_can_write_is_as_bad_unless_it_is_sticky(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    file = tmp_path / "open/usbbridge.toml"
    (reason,) = unsafe(file, status(0o644))
    assert reason.startswith(f"others than its owner may write to the folder {tmp_path}/open ")
    (tmp_path / "open").chmod(0o1777)
    assert list(unsafe(file, status(0o644))) == []


def test_an_unsafe_file_is_not_used_in_system_mode(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    main = write("")
    main.chmod(0o666)
    assert load(main).files == (main,)
    monkeypatch.setenv("USBBRIDGE_MODE", "system")
    (mistake,) = mistakes(main)
    assert mistake.startswith("usbbridge.toml: is not used: ")
