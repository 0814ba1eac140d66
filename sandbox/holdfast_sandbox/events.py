"""What happens to EC2 instances, as EventBridge tells it: interruption warnings, rebalance recommendations, changes of state.

Forms: "EC2 Spot Instance interruption notices", "EC2 instance rebalance recommendations" and "State change events" in the EC2 User Guide.
"""

import json
import uuid
from datetime import UTC, datetime

from holdfast_sandbox.ec2_instances import OWNER
from holdfast_sandbox.ec2_spot import WINDOW_S
from holdfast_sandbox.machine import Machine

WARNING = "EC2 Spot Instance Interruption Warning"
REBALANCE = "EC2 Instance Rebalance Recommendation"
STATE_CHANGE = "EC2 Instance State-change Notification"
STATES = frozenset(("pending", "running", "shutting-down", "terminated"))


def envelope(what: str, machine: Machine, now: float) -> str | None:
    """The event of what happened to an EC2 instance (`notice`, `rebalance` or its new state), as JSON; None where EC2 tells nobody.

    EC2 warns two minutes before the end, and its event's time is that: so here, whatever notice was really given.
    """
    if machine.provider != "aws":
        return None
    if what == "notice" and machine.deadline is not None:
        return _event(WARNING, machine, machine.deadline - WINDOW_S, {"instance-action": "terminate"})
    if what == "rebalance":
        return _event(REBALANCE, machine, now, {})
    if what in STATES:
        return _event(STATE_CHANGE, machine, now, {"state": what})
    return None


def _event(kind: str, machine: Machine, at: float, detail: dict[str, str]) -> str:
    event = {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": kind,
        "source": "aws.ec2",
        "account": OWNER,
        "time": datetime.fromtimestamp(int(at), UTC).isoformat().replace("+00:00", "Z"),
        "region": machine.region,
        "resources": [f"arn:aws:ec2:{machine.region}:{OWNER}:instance/{machine.instance_id}"],
        "detail": {"instance-id": machine.instance_id} | detail,
    }
    return json.dumps(event)
