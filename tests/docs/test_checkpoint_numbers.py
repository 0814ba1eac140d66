"""What the pages say of the job library in numbers is what the code does."""

import inspect

import pytest
from doc_pages import ROOT
from holdfast import Run, coordinator, interval, parking, retention, saver
from holdfast.agreement import ROUND_S
from holdfast.budget import MARGIN_S
from holdfast.data import Loader
from holdfast.store import location, transfer
from holdfast.tiers import DIRECTORY_VARIABLE, LOCAL_VARIABLE
from holdfast.wrap import layout, rescue, resume
from holdfast_controller.risk import AGAIN_S, CHANGED, ON_DEMAND_PER_H

CHECKPOINTS, RESEARCHERS, ADMINISTRATION, LIMITS = (
    (ROOT / "docs" / f"{name}.md").read_text() for name in ("checkpoints", "researchers", "administration", "limits")
)
WORDS = {1: "one", 2: "two", 3: "three", 4: "four", 8: "eight", 10: "ten"}
MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (CHECKPOINTS, f"Between {interval.LEAST_S:g} s and {interval.MOST_S / 60:g} min of training"),
        (CHECKPOINTS, f"saves block at most {interval.MOST_OVERHEAD:.0%} of the time".replace("%", " %")),
        (CHECKPOINTS, f"{interval.DEFAULT_S:g} s outside Holdfast"),
        (CHECKPOINTS, f"a save comes within about {ROUND_S:g} s and a step"),
        (CHECKPOINTS, f"less {MARGIN_S:g} seconds"),
        (CHECKPOINTS, f"The newest {WORDS[retention.LOCAL_KEPT]} stay on the node"),
        (CHECKPOINTS, f"retried for {WORDS[int(location.PATIENCE_S / 60)]} minutes"),
        (CHECKPOINTS, f"files up to {transfer.SMALL_BYTES // MIB} MiB go {WORDS[transfer.SMALL_AT_ONCE]} at once"),
        (CHECKPOINTS, f"`${DIRECTORY_VARIABLE}`, else `./checkpoints`"),
        (CHECKPOINTS, f"`${LOCAL_VARIABLE}`"),
        (CHECKPOINTS, f"the newest `keep={inspect.signature(Run).parameters['keep'].default}` stay"),
        (CHECKPOINTS, f"(`drop_last={inspect.signature(Loader).parameters['drop_last'].default}`"),
        (
            RESEARCHERS,
            f"The newest\n  {WORDS[inspect.signature(Run).parameters['keep'].default]} checkpoints are kept".replace("\n  ", " "),
        ),
        (ADMINISTRATION, f"get {ON_DEMAND_PER_H:.4f} per hour"),
        (LIMITS, f"at most {WORDS[layout.DEPTH]} folders deep and {layout.MOST_ENTRIES:,} entries"),
    ],
)
def test_a_number_is_that_of_the_code(page: str, said: str) -> None:
    assert said in " ".join(page.split())


def test_multipart_uploads() -> None:
    objects = pytest.importorskip("holdfast.store.objects", exc_type=ImportError)
    assert f"parts of {objects.PART_BYTES // MIB} MiB, {WORDS[objects.PARTS_AT_ONCE]} on the way at once" in " ".join(CHECKPOINTS.split())


def test_numbers_that_stand_there_as_words() -> None:
    assert parking.GRACE_S == AGAIN_S == 60.0, "a minute after its deadline; once a minute"
    assert coordinator.RETRY_DUE_S == 30.0, "half a minute later"
    assert CHANGED == 1.25, "by a quarter"
    assert saver.SIGHT_TRIES * saver.SIGHT_PAUSE_S == 10.0, "within ten seconds"
    assert (rescue.QUIET_S, rescue.QUIET_UNHOOKED_S) == (1.0, 2.0), "a second, two without the hook"
    assert (resume.QUARANTINE, resume.VARIABLE) == ("bad-checkpoints", "HOLDFAST_RESUME_FROM")
