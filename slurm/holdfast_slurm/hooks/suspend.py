"""SuspendProgram: tells the controller which nodes slurmctld has given up, and exits.

slurmctld calls it also for instances that never came to be (after a POWER_DOWN of a node that never booted: measured).
"""

from holdfast_slurm.hooks.caller import Call, connect, leave, run, stub
from holdfast_slurm.hooks.request import read_request


def send(call: Call) -> None:
    """Send the nodes. Raises InputError where no node is named, grpc.RpcError where the controller did not take it."""
    nodes = read_request(call.nodes, {}).nodes
    channel = connect(call.socket)
    from holdfast_protos.v1 import hook_pb2

    stub(channel).Suspend(hook_pb2.SuspendRequest(nodes=nodes), timeout=call.left_s())


if __name__ == "__main__":
    leave(run("suspend", send))
