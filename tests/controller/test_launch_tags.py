"""What a launch is for survives in tags as EC2 takes them."""

from holdfast_controller.launch_tags import job_of, nodes_of, tags_of
from hypothesis import given
from hypothesis import strategies as st

numbers = st.sets(st.integers(1, 3000), min_size=1, max_size=400)


@given(numbers, st.integers(0, 2**31))
def test_what_is_written_is_read(which: set[int], job_id: int) -> None:
    names = tuple(f"spot-{number}" for number in sorted(which))
    tags = tags_of(names, job_id)
    assert nodes_of(tags) == names
    assert job_of(tags) == job_id
    assert all(len(value) <= 256 and len(key) <= 128 for key, value in tags.items())
    assert len(tags) <= 31


def test_a_thousand_names_take_one_tag() -> None:
    assert tags_of([f"spot-{number}" for number in range(1, 1001)], 0) == {"holdfast:nodes": "spot-[1-1000]"}


def test_of_names_that_do_not_fit_the_first_are_kept() -> None:
    names = [f"a-very-long-name-of-a-node-{number}" for number in range(1, 9000, 2)]
    tags = tags_of(names, 7)
    kept = nodes_of(tags)
    assert len(tags) <= 31
    assert 500 < len(kept) < len(names)
    assert list(kept) == names[: len(kept)]


def test_foreign_tags_name_nothing() -> None:
    assert nodes_of({"holdfast:nodes": "spot-[1-"}) == ()
    assert nodes_of({"Name": "x"}) == ()
    assert job_of({"holdfast:job": "seven"}) == 0
    assert nodes_of({"holdfast:nodes": "n1,n2"}) == ("n1", "n2"), "as it was written before"
