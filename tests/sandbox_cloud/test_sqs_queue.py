"""A queue by itself, in virtual time."""

from holdfast_sandbox.sqs_queue import MOST_MESSAGES, Queue


def test_messages_come_back_until_they_are_deleted() -> None:
    queue = Queue("q", visibility_s=30)
    queue.send("one", 0.0)
    (first,) = queue.receive(10, 5.0)
    assert queue.receive(10, 34.9) == []
    assert queue.next_shown(10.0) == 35.0
    (again,) = queue.receive(10, 35.0)
    assert (again.body, again.receives) == ("one", 2)
    assert queue.delete(again.receipt)
    assert queue.delete(first.receipt), "twice is no error"
    assert not queue.delete("nonsense")
    assert len(queue) == 0
    assert queue.next_shown(0.0) is None


def test_a_receive_may_say_how_long_it_hides_what_it_takes() -> None:
    queue = Queue("q")
    queue.send("one", 0.0)
    assert queue.receive(1, 0.0, visibility_s=0)
    assert queue.receive(1, 0.0, visibility_s=5)
    assert queue.receive(1, 4.9) == []


def test_where_nobody_reads_the_oldest_go() -> None:
    queue = Queue("q")
    for number in range(MOST_MESSAGES + 3):
        queue.send(str(number), 0.0)
    assert len(queue) == MOST_MESSAGES
    assert queue.receive(1, 0.0)[0].body == "3"
