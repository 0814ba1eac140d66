"""DescribeSpotInstanceRequests: how each spot request, and with it each spot instance, stands.

Codes: "Spot request status codes" in the EC2 User Guide. An instance under notice is `marked-for-termination`, its request still active.
EC2 tells no deadline here, only when the status changed, which is two minutes before it: so here, whatever notice was really given.
"""

from typing import Any

from holdfast_sandbox.ec2_account import Call, Filters, Handler, page
from holdfast_sandbox.ec2_market import PRODUCT
from holdfast_sandbox.ec2_templates import Params
from holdfast_sandbox.ec2_wire import Ec2Error
from holdfast_sandbox.machine import Machine

WINDOW_S = 120.0
_FILTERS = ("spot-instance-request-id", "instance-id", "state", "status-code", "launched-availability-zone")


def _standing(machine: Machine) -> tuple[str, str, float]:
    """The request's state, its status code and the time of its last change."""
    if machine.reason_code == "Client.UserInitiatedShutdown":
        return "closed", "instance-terminated-by-user", machine.terminating or machine.requested
    if machine.gone is not None:
        return "closed", "instance-terminated-no-capacity", machine.gone
    if machine.deadline is not None:
        return "active", "marked-for-termination", machine.deadline - WINDOW_S
    return "active", "fulfilled", machine.requested


def _wire(machine: Machine) -> dict[str, Any]:
    state, code, at = _standing(machine)
    return {
        "SpotInstanceRequestId": machine.spot_request_id,
        "InstanceId": machine.instance_id,
        "State": state,
        "Status": {"Code": code, "Message": code.replace("-", " "), "UpdateTime": float(int(at))},
        "CreateTime": float(int(machine.requested)),
        "Type": "one-time",
        "SpotPrice": f"{machine.spec.max_price_usd_h or machine.price_at_launch_usd_h:.6f}",
        "LaunchedAvailabilityZone": machine.pool.zone,
        "ProductDescription": PRODUCT,
        "InstanceInterruptionBehavior": "terminate",
        "Tags": [],  # RunInstances tags the request only where it is asked to tag `spot-instances-request`
    }


def describe_spot_instance_requests(call: Call) -> Params:
    """DescribeSpotInstanceRequests, by ids and filters; those of instances that ended stay for as long as the instances do."""
    datacenter = call.account.datacenter
    filters = Filters(call.params.get("Filters"), _FILTERS)
    requests = {
        machine.spot_request_id: machine
        for machine in datacenter.machines.values()
        if machine.spot_request_id is not None
        and machine.region == call.region
        and (machine.gone is None or call.now - machine.gone < datacenter.config.terminated_visible_s)
    }
    wanted = call.params.get("SpotInstanceRequestIds") or list(requests)
    if unknown := [each for each in wanted if each not in requests]:
        raise Ec2Error("InvalidSpotInstanceRequestID.NotFound", f"The spot instance request ID '{unknown[0]}' does not exist")
    keyed = []
    for each in wanted:
        machine = requests[each]
        state, code, _ = _standing(machine)
        attributes = {
            "spot-instance-request-id": [each],
            "instance-id": [machine.instance_id],
            "state": [state],
            "status-code": [code],
            "launched-availability-zone": [machine.pool.zone],
        }
        if filters.accept(attributes, {}):
            keyed.append((each, _wire(machine)))
    found, token = page(call.params, keyed, least=5)
    return {"SpotInstanceRequests": found, "NextToken": token}


HANDLERS: dict[str, Handler] = {"DescribeSpotInstanceRequests": describe_spot_instance_requests}
