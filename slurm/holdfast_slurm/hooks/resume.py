"""ResumeProgram: hands slurmctld's request for nodes to the controller, and exits.

slurmctld runs it with SLURM_CONF and SLURM_RESUME_FILE only, no PATH, in `/` (measured), and may run it twice for the same
nodes. It never leaves work to a child: slurmctld kills a hook's process group when the hook returns.
"""

import os

from holdfast_slurm.hooks.caller import Call, connect, leave, run, stub
from holdfast_slurm.hooks.request import read_request


def send(call: Call) -> None:
    """Send the request. Raises InputError where no node is named, grpc.RpcError where the controller did not take it."""
    request = read_request(call.nodes, os.environ)
    for fault in request.faults:
        call.log.note(fault)
    channel = connect(call.socket)
    from holdfast_protos.v1 import hook_pb2

    jobs = [hook_pb2.ResumeJob(job_id=job.job_id, nodes=job.nodes, nodes_alloc=job.nodes_alloc) for job in request.jobs]
    stub(channel).Resume(hook_pb2.ResumeRequest(nodes=request.nodes, jobs=jobs), timeout=call.left_s())


if __name__ == "__main__":
    leave(run("resume", send))
