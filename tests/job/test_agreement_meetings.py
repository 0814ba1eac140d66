"""A meeting that ends does not undo the choice of a later one."""

import threading

from holdfast.agreement import Rounds
from holdfast.clock import Clock
from holdfast.process import Place


class Line:
    """Two ranks that always say the same; while they choose a step, a meeting of an earlier one comes to its end."""

    place = Place(0, 2)

    def __init__(self) -> None:
        self.rounds: Rounds
        self.chosen = threading.Event()

    def highest(self, values: list[int]) -> list[int]:
        if len(values) == 1:
            self.rounds.met()
            self.chosen.set()
        return values


def test_a_step_that_is_chosen_during_another_meeting_stays_chosen() -> None:
    line, faults = Line(), []
    line.rounds = Rounds(line, lambda: True, Clock(), faults.append)  # type: ignore[arg-type]
    line.rounds.begin(0, 1000)
    assert line.chosen.wait(5)
    assert [step for step in range(1, 66) if line.rounds.at(step, 0.0)] == [64]
    line.rounds.end()
    assert faults == []
