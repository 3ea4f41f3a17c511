"""The closed tables: what is not in them is not permitted."""

import grp
import os
import pwd

import pytest

from usbbridge.config import Access
from usbbridge.ipc.api import Right
from usbbridge.ipc.listener import Peer
from usbbridge.ipc.monitoring import REQUESTS, Adopt, Hello, Open, Outcome, Reload, Synced
from usbbridge.ipc.permissions import Role, Stage, group_id, is_permitted, monitor_role, rights, user_id

ROOT = Peer(1, 0, 0)
CONTROL = Peer(2, 990, 990)
SOMEBODY = Peer(3, 1000, 1000, (4, 24))
EXAMPLES = (Hello(1), Open(1, "1-1#2"), Adopt("1-1#2"), Synced(), Outcome("1-1#2", "ended"), Reload())
EVERYTHING = frozenset(Right)
USE = frozenset((Right.VIEW, Right.ATTACH))


@pytest.mark.parametrize(
    ("peer", "own_uid", "role"),
    [
        (ROOT, 0, Role.OWNER),
        (CONTROL, 0, Role.CONTROL),
        (SOMEBODY, 0, None),
        (SOMEBODY, 1000, Role.OWNER),
        (ROOT, 1000, Role.OWNER),
    ],
)
def test_what_a_peer_is_to_the_monitor(peer: Peer, own_uid: int, role: Role | None) -> None:
    assert monitor_role(peer, own_uid, 990) is role


def test_without_a_user_for_control_only_the_owner_is_served() -> None:
    assert monitor_role(CONTROL, 0, None) is None


def allowed(role: Role, stage: Stage) -> set[str]:
    fds = {Open: 1, Adopt: 1}
    return {r.kind for r in EXAMPLES if is_permitted(role, stage, r, fds.get(type(r), 0))}


def test_every_kind_of_request_has_an_example_here() -> None:
    assert {type(example) for example in EXAMPLES} == set(REQUESTS.values())


@pytest.mark.parametrize("role", Role)
def test_hello_comes_first_and_once(role: Role) -> None:
    assert allowed(role, Stage.NEW) == {"hello"}
    assert "hello" not in allowed(role, Stage.GREETED)


def test_only_the_owner_reloads() -> None:
    assert allowed(Role.CONTROL, Stage.GREETED) == {"open", "adopt", "synced", "outcome"}
    assert allowed(Role.OWNER, Stage.GREETED) == {"open", "adopt", "synced", "outcome", "reload"}


@pytest.mark.parametrize("request_", EXAMPLES)
def test_descriptors_must_be_as_many_as_belong_to_the_request(request_: object) -> None:
    stage = Stage.NEW if isinstance(request_, Hello) else Stage.GREETED
    permitted = [fds for fds in range(3) if is_permitted(Role.OWNER, stage, request_, fds)]  # type: ignore[arg-type]
    assert permitted == ([1] if isinstance(request_, Open | Adopt) else [0])


GROUP = grp.getgrgid(4).gr_name


@pytest.mark.parametrize(
    ("peer", "access", "may"),
    [
        (ROOT, Access(), EVERYTHING),
        (CONTROL, Access(), EVERYTHING),
        (SOMEBODY, Access(groups=()), {Right.VIEW}),
        (SOMEBODY, Access(view="attachers", groups=()), set()),
        (SOMEBODY, Access(view="attachers", groups=(GROUP,)), USE),
        (SOMEBODY, Access(groups=("1000",)), USE),
        (SOMEBODY, Access(users=("1000",), groups=()), USE),
        (SOMEBODY, Access(users=("root",), groups=("root",)), {Right.VIEW}),
        (SOMEBODY, Access(users=("nobody-of-this-name",), groups=("no-group-of-this-name",)), {Right.VIEW}),
    ],
)
def test_what_a_peer_may_do_through_the_api(peer: Peer, access: Access, may: frozenset[Right]) -> None:
    assert rights(peer, access, own_uid=990) == may


def test_names_and_numbers_of_users_and_groups() -> None:
    own = pwd.getpwuid(os.getuid()).pw_name
    assert user_id(own) == os.getuid()
    assert user_id("1234") == group_id("1234") == 1234
    assert group_id(grp.getgrgid(0).gr_name) == 0
    assert user_id("nobody-of-this-name") is group_id("no-group-of-this-name") is None
