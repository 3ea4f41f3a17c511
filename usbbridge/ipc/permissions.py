"""Who may ask for what: the closed tables that the service's two sockets hold every request against.

The kernel says who the peer is (`usbbridge.ipc.listener.Peer`); nothing that a peer says about itself counts.
"""

import grp
import pwd
from enum import StrEnum
from typing import Final

from usbbridge.config import Access
from usbbridge.ipc.api import Right
from usbbridge.ipc.listener import Peer
from usbbridge.ipc.monitoring import Adopt, Hello, Open, Outcome, Reload, Request, Synced

ROOT: Final = 0


class Role(StrEnum):
    """What a peer of the monitor is to it."""

    OWNER = "owner"
    "root, or the user that the monitor runs as."
    CONTROL = "control"
    "The user that control runs as."


class Stage(StrEnum):
    """How far a peer of the monitor has come."""

    NEW = "new"
    "It has not said Hello."
    GREETED = "greeted"


_EVERYDAY: Final[frozenset[type[Request]]] = frozenset((Open, Adopt, Synced, Outcome))

MONITOR_REQUESTS: Final[dict[tuple[Role, Stage], frozenset[type[Request]]]] = {
    (Role.CONTROL, Stage.NEW): frozenset((Hello,)),
    (Role.CONTROL, Stage.GREETED): _EVERYDAY,
    (Role.OWNER, Stage.NEW): frozenset((Hello,)),
    (Role.OWNER, Stage.GREETED): _EVERYDAY | {Reload},
}
"Every request that there is has to stand here to be heard. What does not ends the connection."

FDS_BESIDE: Final[dict[type[Request], int]] = {Open: 1, Adopt: 1}
"Descriptors that travel beside a request: exactly so many, and none beside the others."


def monitor_role(peer: Peer, own_uid: int, control_uid: int | None) -> Role | None:
    """What `peer` is to a monitor that runs as `own_uid` and expects control to run as `control_uid`; None: nothing, it
    is not talked to."""
    if peer.uid in (ROOT, own_uid):
        return Role.OWNER
    return Role.CONTROL if peer.uid == control_uid else None


def is_permitted(role: Role, stage: Stage, request: Request, fds: int) -> bool:
    """Whether a peer may make this request, with that many descriptors beside it, at this stage."""
    return type(request) in MONITOR_REQUESTS[role, stage] and fds == FDS_BESIDE.get(type(request), 0)


def rights(peer: Peer, access: Access, own_uid: int) -> frozenset[Right]:
    """What `peer` may do through the API of a control process that runs as `own_uid`."""
    if peer.uid in (ROOT, own_uid):
        return frozenset(Right)
    if _may_attach(peer, access):
        return frozenset((Right.VIEW, Right.ATTACH))
    return frozenset((Right.VIEW,)) if access.view == "everyone" else frozenset()


def _may_attach(peer: Peer, access: Access) -> bool:
    if {peer.gid, *peer.groups} & {gid for gid in map(group_id, access.groups) if gid is not None}:
        return True
    return peer.uid in {uid for uid in map(user_id, access.users) if uid is not None}


def user_id(name: str) -> int | None:
    """The uid of a user's name, or of a number as the configuration may give it; None if there is no such user."""
    if name.isascii() and name.isdecimal():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def group_id(name: str) -> int | None:
    """The gid of a group's name, or of a number; None if there is no such group."""
    if name.isascii() and name.isdecimal():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None
