"""What holds at every moment, and what holds once everything has come to rest (design, section 1)."""

from collections import Counter

from holdfast_controller.fleet import Fleet
from holdfast_controller.reconcile import steady
from holdfast_controller.records import LaunchRecord
from holdfast_slurm.fake_model import ENDED, FakeJob, FakeNode
from sim_edges import SimJournal
from sim_world import World

REASON = "holdfast:"


def always(world: World) -> None:
    """Note what must never be so, at any moment."""
    names: dict[str, list[str]] = {}
    for machine in world.room.living():
        if machine.name:
            names.setdefault(machine.name, []).append(machine.iid)
    for name, holders in names.items():
        if len(holders) > 1:
            world.wrong(f"{name} is the name of {holders}")
    if world.controller is not None:
        _one_launch_each(world)


def _one_launch_each(world: World) -> None:
    """No more machines that somebody waits for than names that they could have: nothing was bought twice."""
    launches = world.fleet.launches
    waiting = []
    for machine in world.room.living():
        launch = launches.get(machine.cloud.launch_id)
        wanted = launch is not None and not launch.void and machine.cloud.terminated is None and machine.iid in launch.instances
        if wanted and launch is not None:
            waiting.append((machine.iid, (machine.name,) if machine.name else launch.nodes))
    taken: dict[str, str] = {}

    def place(iid: str, options: tuple[str, ...], tried: set[str]) -> bool:
        for name in options:
            if name in tried:
                continue
            tried.add(name)
            if name not in taken or place(taken[name], dict(waiting)[taken[name]], tried):
                taken[name] = iid
                return True
        return False

    for iid, options in waiting:
        if not place(iid, options, set()):
            world.wrong(f"{iid} has been bought for {', '.join(options)}, and others for the same")


def at_rest(world: World) -> list[str]:
    """Return what is not as it must be once faults have stopped and jobs are done."""
    if world.controller is None:
        return ["the controller is away"]
    found = [f"job {job.key} is not done: {_state(world, job.key)}" for job in world.training.jobs.values() if not job.finished]
    for machine in world.room.living():
        node = world.slurm.fake_node(machine.registered) if machine.registered else None
        if machine.hung or node is None or node.power != "on":
            found.append(f"{machine.iid} is an orphan: {machine.name or 'no name'}, {node.view() if node else 'never registered'}")
        if machine.well and not machine.health.fit:
            found.append(f"{machine.iid} is sick, and has not ended")
    found += [fault for node in world.slurm.engine.fleet.values() if (fault := _fault_of(world, node))]
    found += [fault for job in world.slurm.engine.queue.values() if (fault := _left_on(job))]
    found += [fault for launch in world.fleet.launches.values() if (fault := _unsettled(world, launch))]
    bought = Counter(machine.cloud.launch_id for machine in world.room.machines.values())
    asked = {launch_id: request.count for launch_id, request in world.requests.items()}
    found += [f"launch {launch_id} was made twice" for launch_id, count in bought.items() if count > asked.get(launch_id, 0)]
    found += [f"{machine.iid} has no record" for machine in world.room.living() if machine.iid not in world.fleet.instances]
    if not world.fleet.cloud_listed:
        found.append("the clouds have not been listed yet")
    if world.fleet.busy():
        found.append("the controller is busy without cause")
    return found


def _unsettled(world: World, launch: LaunchRecord) -> str:
    """Every launch ends as registered, refused or released."""
    if not launch.ended:
        return f"launch {launch.launch_id} has no end"
    records = [record for iid in launch.instances if (record := world.fleet.instances.get(iid)) is not None]
    living = [record for record in records if record.alive]
    if any(not record.node for record in living):
        return f"launch {launch.launch_id} has an instance that has no name and was not released"
    if not launch.instances and not launch.faults and not launch.recovered:
        return f"launch {launch.launch_id} brought nothing, and nobody knows why"
    return ""


def _left_on(job: FakeJob) -> str:
    """Nothing of ours is left on a job that has ended."""
    ours = {"hold": job.held, "Nice": job.nice, "Priority": job.fixed_priority, "reservation": job.reservation and job.state not in ENDED}
    left = [name for name, there in ours.items() if there]
    return f"job {job.key} is left with a {left[0]} of ours" if left else ""


def _fault_of(world: World, node: FakeNode) -> str:
    if node.drain and node.reason.startswith(REASON):
        return f"{node.name} is left with our drain: {node.reason}"
    if node.reservation:
        return f"{node.name} is left in reservation {node.reservation}"
    if node.down:
        return f"{node.name} is left DOWN: {node.reason}"
    if node.power == "on" and world.room.holder(node.name) is None:
        return f"{node.name} is up in Slurm without a machine"
    return "" if node.power in {"on", "off"} else f"{node.name} stays {node.power}"


def _state(world: World, key: str) -> str:
    fake = world.slurm.engine.queue.get(key)
    return str(fake.view()) if fake is not None else "forgotten by Slurm"


def replays(world: World) -> None:
    """Raise AssertionError unless the journal alone gives the fleet that the controller has."""
    live = world.fleet

    async def again() -> Fleet:
        journal = SimJournal(world.journal_path, world)
        fleet = await journal.open(frozenset(live.nodes))
        journal.drop()
        return fleet

    fleet = world.run(again())
    fleet.manage(frozenset(live.nodes))
    # Samples, which are not events: when Slurm was looked at last, who is connected, whether the clouds have been listed.
    fleet.cloud_listed, fleet.fresh = live.cloud_listed, live.fresh
    for name, node in live.nodes.items():
        fleet.nodes[name].viewed_at = node.viewed_at
    for job_id, job in live.jobs.items():
        if job_id in fleet.jobs and steady(fleet.jobs[job_id].view) == steady(job.view):
            fleet.jobs[job_id].view = job.view  # expected start, priority
    for iid, record in live.instances.items():
        if iid in fleet.instances:
            fleet.instances[iid].connected = record.connected
    for part in ("nodes", "instances", "launches", "jobs", "pools", "commands"):
        mine, theirs = getattr(live, part), getattr(fleet, part)
        differ = [(key, mine.get(key), theirs.get(key)) for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)]
        assert not differ, f"replayed, {part} differ: {differ[0]}"


def settle(world: World, limit_s: float = 800.0, *, quiet_s: float = 200.0) -> None:
    """Let everything come to rest; then nothing may go on happening for a while. Raises AssertionError with the story."""
    end = world.clock.now() + limit_s
    left = at_rest(world)
    while left and world.clock.now() < end:
        world.wait(5.0)
        always(world)
        left = at_rest(world)
    assert not left, "\n".join([*left, world.story()])
    if quiet_s:
        world.wait(30.0)
        seq = world.reactor.seq
        world.wait(quiet_s)
        more, jobs = world.reactor.seq - seq, len(world.training.jobs)
        assert more <= jobs, f"at rest, and yet {more} lines in the journal\n{world.story()}"  # each job is forgotten once
    replays(world)
    assert not at_rest(world), "\n".join([*at_rest(world), world.story()])
    assert not world.faults, world.story()
