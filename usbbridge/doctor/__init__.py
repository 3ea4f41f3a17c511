"""What keeps a device from its VM: each part looked at by itself, and what was found said with what to do about it.

    finding         what is found, and how it is shown                        pure
    remedies        commands that free a device                               pure
    case            what all checks look at, gathered once
    examination     runs the checks, each so that it can neither hide nor hold up the others
    software …      one module for each area: `findings(case)` yields what it sees

Nothing is ever changed, and no SPICE session is opened: that would end a viewer's.
"""
