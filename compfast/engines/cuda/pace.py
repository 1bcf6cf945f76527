"""How many steps one launch makes, so that the host hears a stop in time."""

from __future__ import annotations

LAUNCH = 0.1  # seconds that one launch should take
MOST_STEPS = 1024  # of a launch; each keeps a loss and a norm on the device
MOST_SEQUENCES = 2**20  # of one step of a launch: more members take turns


class Pace:
    """Begins with one step, then at most doubles from launch to launch.

    Nothing that it says changes a bit. A launch cannot be cut short, so one step of one member
    is the least that a stop waits for.
    """

    def __init__(self) -> None:
        self._steps = 0  # of the last launch
        self._cost = 0.0  # seconds a step
        self._load = 1.0  # members that ran, on average over the steps

    def most(self) -> int:
        """The longest that the next launch may be."""
        return min(max(1, 2 * self._steps), MOST_STEPS)

    def steps(self, running: int) -> int:
        """Of the next launch, in which `running` members take part.

        More members than before are taken to need time in proportion, fewer as much as before.
        """
        if not self._steps:
            return 1
        expected = self._cost * max(1.0, running / self._load)
        return max(1, min(self.most(), int(LAUNCH / max(expected, 1e-9))))

    def saw(self, steps: int, member_steps: int, seconds: float) -> None:
        """What the last launch did."""
        self._steps, self._cost = steps, seconds / steps
        self._load = max(1, member_steps) / steps
