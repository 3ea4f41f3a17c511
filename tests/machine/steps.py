"""What a program that runs inside a machine tells of itself."""

import traceback
from collections.abc import Callable


class Facts(dict[str, object]):
    """What happened, by the name of the step in which it did."""

    def step(self, name: str, work: Callable[[], object]) -> None:
        """Take a step: what it returns is what happened, or the traceback of what it raises."""
        try:
            self[name] = work()
        except BaseException:
            self[name] = traceback.format_exc()
