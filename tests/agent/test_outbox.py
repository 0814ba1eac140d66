from holdfast_nodeagent.link import pause_s
from holdfast_nodeagent.outbox import Outbox
from holdfast_protos.v1 import agent_pb2 as pb


def status(step: int) -> pb.AgentMessage:
    return pb.AgentMessage(job_status=pb.JobStatus(job_id=12, step=step))


def test_the_latest_word_wins_and_the_ack_of_an_older_one_does_not_remove_it() -> None:
    box = Outbox()
    box.put("job:12.0", status(1), 5.0)
    (first,) = box.unsent()
    first.first_sent = 5.0
    box.put("job:12.0", status(2), 6.0)
    box.acknowledge(first.message.id)
    (second,) = box.unsent()
    assert second.message.job_status.step == 2
    assert second.message.id != first.message.id
    box.acknowledge(second.message.id)
    assert len(box) == 0
    box.acknowledge("unknown")


def test_what_was_sent_and_not_acknowledged_goes_again_on_a_new_stream() -> None:
    box = Outbox()
    box.put("notice:n", pb.AgentMessage(), 1.0)
    for entry in box.unsent():
        entry.first_sent = 3.0
    assert list(box.unsent()) == []
    assert box.oldest_sent() == 3.0
    box.reopened()
    assert len(list(box.unsent())) == 1
    assert box.oldest_sent() is None


def test_when_it_is_full_a_jobs_status_goes_before_a_notice() -> None:
    box = Outbox(limit=3)
    box.put("notice:n", pb.AgentMessage(), 1.0)
    for number in range(5):
        box.put(f"job:{number}.0", status(number), 1.0)
    assert len(box) == 3
    assert box.waiting("notice:n")
    assert box.waiting("job:4.0")
    for number in range(5):
        box.put(f"notice:{number}", pb.AgentMessage(), 1.0)
    assert len(box) == 3


def test_pauses_grow_stay_bounded_and_are_short_while_a_notice_is_in_force() -> None:
    assert pause_s(0, False, 0.0) == 0.1
    assert pause_s(0, False, 1.0) == 0.2
    assert pause_s(3, False, 1.0) == 1.6
    assert pause_s(10**6, False, 1.0) == 15.0
    assert pause_s(10**6, True, 1.0) == 0.5
