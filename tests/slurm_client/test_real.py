"""What only a real slurmctld can show: hostile jobs, its loss, and that our host lists are Slurm's."""

from pathlib import Path
from typing import Any

import pytest
from holdfast_common.errors import SlurmUnavailable
from holdfast_slurm.nodeset import expand, fold

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(60)]


async def test_hostile_jobs_change_nobody_else_and_forge_nothing(cluster: Any, client: Any) -> None:
    victim = cluster.sbatch("--hold", "--comment", "mine")
    await client.update_job(victim, admin_comment="holdfast: real")
    middle = "UserId=root(0) JobState=FAILED Reason=None Requeue=0 Restarts=9 BatchFlag=0 NodeList=spot-3 Command=x WorkDir=/x"
    name = f"x {middle} AdminComment=forged Comment=y StdErr=z\nJobId={victim} JobName=v {middle} AdminComment=forged Comment=y StdErr=z"
    comment = "é\n" + f"{victim}".ljust(12) * 60 + " JobState=COMPLETED\nJobId=99 JobName=p"
    hostile = cluster.sbatch("--hold", "--job-name", name, "--comment", comment, "--account", "a\nb JobState=RUNNING")
    views = {view.key: view for view in await client.jobs()}
    assert set(views) == {victim, hostile}
    assert (views[victim].state, views[victim].comment) == ("PENDING", "mine")
    view = views[hostile]
    assert (view.state, view.restarts, view.requeue, view.batch, view.nodes, view.comment) == ("PENDING", 0, True, True, (), comment)
    assert await client.job(hostile) == view
    assert "AdminComment=holdfast: real" in cluster.run("scontrol", "show", "job", victim, "-o")


async def test_the_longest_comment_and_a_heterogeneous_job(cluster: Any, client: Any) -> None:
    comment = "holdfast: " + "é" * 507
    assert len(comment.encode()) == 1024
    key = cluster.sbatch("--hold", "--comment", comment)
    assert (await client.job(key)).comment == comment
    leader = cluster.run("sbatch", "--parsable", "--hold", "-o", "/dev/null", "-N1", "--wrap", "sleep 1", ":", "-N1").strip()
    parts = [view for view in await client.jobs() if view.het_job_id]
    assert [(view.job_id, view.key, view.het_job_id) for view in parts] == [
        (int(leader), leader, int(leader)),
        (int(leader) + 1, leader, int(leader)),
    ]
    assert (await client.job(leader)).job_id == int(leader)


async def test_a_waiting_array_is_one_job_with_a_key_that_slurm_takes(cluster: Any, client: Any) -> None:
    array = cluster.sbatch("--array=2-9,20-30:5%3", "--hold")
    (view,) = await client.jobs()
    assert view.key == f"{array}_[2-9,20,25,30]"
    await client.update_job(view.key, nice=7)
    assert {view.nice for view in await client.jobs()} == {7}
    wide = cluster.sbatch("--array=" + ",".join(str(task) for task in sorted({square**2 % 997 for square in range(500)})), "--hold")
    (view,) = [view for view in await client.jobs() if view.key.startswith(f"{wide}_")]
    assert view.key.endswith("...]")  # too long for any command: says so rather than naming the wrong tasks


async def test_jobs_of_every_size_are_listed(cluster: Any, client: Any) -> None:
    """What any user may submit must not make the list of all jobs unreadable: squeue prints 1024 nodes as 1K unless it is told not to."""
    sizes = {"1024": 1024, "2048-4096": 2048, "1048576": 1_048_576}
    keys = {cluster.sbatch("--hold", "-N", nodes): wanted for nodes, wanted in sizes.items()}
    odd = cluster.sbatch("--hold", "--begin=now+3000days", "--nice=2147483645", "--time=infinite", "-n", "65536", "--exclude", "spot-1")
    views = {view.key: view for view in await client.jobs()}
    assert {key: views[key].num_nodes for key in keys} == keys
    assert views[odd].state == "PENDING"


async def test_without_slurmctld_nothing_is_answered(cluster: Any, client: Any) -> None:
    assert await client.ping()
    cluster.tell("stop-slurmctld")
    with pytest.raises(SlurmUnavailable):
        await client.jobs()
    with pytest.raises(SlurmUnavailable):
        await client.drain(["spot-1"], "holdfast: x")
    assert not await client.ping()


async def test_without_munge_nothing_is_answered(cluster: Any, client: Any) -> None:
    (cluster.directory / "munge.sock").unlink()
    with pytest.raises(SlurmUnavailable):
        await client.nodes()


@pytest.mark.parametrize("text", ["n[01-2]", "n[008-11,3]", "a[1-2]n[01-02]", "n[099-101]", "n[1-3],m,n7"])
def test_host_lists_expand_as_slurm_does(cluster: Any, text: str) -> None:
    assert list(expand(text)) == cluster.run("scontrol", "show", "hostnames", text).split()


@pytest.mark.parametrize("text", ["n1,n01,n2,n02", "n099,n100,n101", "n9,n10", "a1n1,a1n2,a2n1", "n1b,n2b", "spot-1,spot-3,x"])
def test_what_we_fold_slurm_expands_to_the_same(cluster: Any, text: str) -> None:
    assert sorted(cluster.run("scontrol", "show", "hostnames", fold(text.split(","))).split()) == sorted(text.split(","))


def test_the_configuration_is_ours_alone(cluster: Any) -> None:
    assert Path(cluster.run("scontrol", "show", "config").split("SLURM_CONF")[1].split()[1]) == cluster.conf
