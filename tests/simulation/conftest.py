"""A cluster in virtual time for each test, and the look at its end whether anything happened that never may."""

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

sys.path.insert(0, str(Path(__file__).parent))  # importmode=importlib leaves it out
from sim_world import World


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The journal tells the story: a log line for each command of thousands of virtual seconds would cost more than the rest."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL), cache_logger_on_first_use=False)
    yield
    structlog.configure(**before)


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Make worlds with a running controller; each is looked at and closed when the test is over."""
    made: list[World] = []

    def make(**settings: Any) -> World:
        path = tmp_path / str(len(made))
        path.mkdir()
        world = World(path, **settings)
        made.append(world)
        world.start()
        return world

    yield make
    for world in made:
        if not world.closed:
            story = world.story()
            world.close()
            assert not world.faults, story


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """A world of four nodes."""
    return make_world()
