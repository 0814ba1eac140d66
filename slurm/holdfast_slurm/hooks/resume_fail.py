"""ResumeFailProgram: tells the controller which nodes missed ResumeTimeout, and exits."""

from holdfast_slurm.hooks.caller import Call, connect, leave, run, stub
from holdfast_slurm.hooks.request import read_request


def send(call: Call) -> None:
    """Send the nodes. Raises InputError where no node is named, grpc.RpcError where the controller did not take it."""
    nodes = read_request(call.nodes, {}).nodes
    channel = connect(call.socket)
    from holdfast_protos.v1 import hook_pb2

    stub(channel).ResumeFail(hook_pb2.ResumeFailRequest(nodes=nodes), timeout=call.left_s())


if __name__ == "__main__":
    leave(run("resume-fail", send))
