"""What slurmctld changes all the time without anything having happened: the guessed start and the weight of a job that waits."""

import sqlite3

from sim_invariants import replays, settle


def lines_of(world, job) -> int:
    with sqlite3.connect(world.journal_path) as db:
        query = "SELECT count(*) FROM events WHERE kind = 'JobChanged' AND instr(refs, ?) > 0"
        return int(db.execute(query, (f"|job:{job.key}|",)).fetchone()[0])


def test_a_waiting_job_whose_guesses_drift_fills_no_journal(world):
    for pool in world.provider.pools.values():
        pool.capacity = 0
    job = world.submit()
    world.wait(30)
    fake, before = world.slurm.fake_job(job.key), lines_of(world, job)
    changes = 0
    for number in range(40):
        if fake.state == "PENDING":
            fake.start_time, fake.priority = world.clock.now() + 100 * number, fake.priority + 1
            fake.reason = fake.reason if fake.reason == "BeginTime" else ("Priority", "Resources", "")[number % 3]
            changes += 1
        world.wait(2.0)
        record = world.fleet.jobs[int(job.key)]
        if fake.state == "PENDING" and record.view.state == "PENDING":
            assert abs(record.view.priority - fake.current_priority()) <= 1, "what people are shown is what Slurm says now"
    replays(world)
    assert changes > 20
    assert lines_of(world, job) - before <= 8, "its backoffs, and nothing for the guesses"
    for pool in world.provider.pools.values():
        pool.capacity = 10
    world.until(lambda: job.done_at, 200)
    settle(world)
