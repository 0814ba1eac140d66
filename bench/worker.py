"""The job that is interrupted: steps of 20 ms, a state of one number, the library without PyTorch. What is left to measure is ours."""

import time

import holdfast

STEP_S = 0.02
ENDLESS = 10**9


class Counter:
    """A state that is saved in milliseconds."""

    def __init__(self) -> None:
        self.count = 0

    def state_dict(self) -> dict[str, int]:
        """Return what must be saved."""
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take up what was saved."""
        self.count = state["count"]


def main() -> None:
    """Train for ever."""
    counter = Counter()
    for step in holdfast.Run(model=counter).steps(ENDLESS):
        time.sleep(STEP_S)
        counter.count = step


if __name__ == "__main__":
    main()
