"""Whatever a user writes as a target or a certificate's subject is understood or refused with `UsageError`."""

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from usbbridge.errors import UsageError
from usbbridge.spice.messages import printable
from usbbridge.spice.subject import format_subject, parse_subject
from usbbridge.spice.targets import parse_target

WORDS = "spice spice+tls spice+unix tcp unix :/ : // [ ] ::1 @ ? & = vm port tls-port 5900 0 65536 \\ , CN O 2.5.4.3 a"
words = st.sampled_from([*WORDS.split(), " "])
texts = st.text(max_size=60) | st.lists(words, max_size=10).map("".join)


@given(texts)
def test_a_target_prints_as_what_it_was_read_from(text: str) -> None:
    with suppress(UsageError):
        target = parse_target(text)
        assert parse_target(str(target)) == target


@given(texts)
def test_a_subject_prints_as_what_it_was_read_from(text: str) -> None:
    with suppress(UsageError):
        subject = parse_subject(text)
        assert parse_subject(format_subject(subject)) == subject


@given(st.binary(max_size=300))
def test_a_peers_text_is_printable(raw: bytes) -> None:
    assert printable(raw).isprintable()
