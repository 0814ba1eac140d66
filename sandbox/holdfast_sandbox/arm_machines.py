"""Azure's operations on virtual machines: create, get, list, delete, evict."""

import base64
import re

from holdfast_sandbox.arm_account import Call, Handler, VirtualMachine
from holdfast_sandbox.arm_launch import ordered, start
from holdfast_sandbox.arm_wire import ArmError, Json, Reply, checked_name, checked_tags, page, part, same, time_text

EVICTION_NOTICE_S = 30.0
_FILTER = re.compile(r"(?i)'virtualMachineScaleSet/id'\s+eq\s+'?([^']{1,500})'?")


def wire(machine: VirtualMachine, *, statuses: bool = False) -> Json:
    """A machine as it is told, with its instance view where that is asked for."""
    properties: Json = {
        **machine.body,
        "vmId": machine.vm_id,
        "provisioningState": machine.provisioning,
        "timeCreated": time_text(machine.created),
    }
    if machine.scale_set is not None:
        properties["virtualMachineScaleSet"] = {"id": machine.scale_set.resource_id}
    if machine.machine is not None:
        card = f"{machine.resource_id.rpartition('/providers/')[0]}/providers/Microsoft.Network/networkInterfaces/{machine.name}-nic"
        properties["networkProfile"] = {"networkInterfaces": [{"id": card, "properties": {"primary": True, "deleteOption": "Delete"}}]}
    if statuses:
        properties["instanceView"] = instance_view(machine)
    return {
        "id": machine.resource_id,
        "name": machine.name,
        "type": "Microsoft.Compute/virtualMachines",
        "location": machine.location,
        "tags": dict(machine.tags),
        "properties": properties,
    } | ({"zones": [machine.zone]} if machine.zone else {})


def instance_view(machine: VirtualMachine) -> Json:
    """The statuses of a machine. One that boots is on a host, and so running, while Azure waits for its guest."""
    if machine.failure is not None:
        code = {"code": f"ProvisioningState/failed/{machine.failure.code}", "level": "Error", "message": machine.failure.message}
        return {"statuses": [code]}
    state = machine.provisioning
    told = {
        "Creating": "ProvisioningState/creating/osProvisioningInProgress",
        "Succeeded": "ProvisioningState/succeeded",
        "Deleting": "ProvisioningState/deleting",
    }[state]
    power = "stopped" if machine.stopped else "stopping" if state == "Deleting" else "running"
    return {"statuses": [{"code": told, "level": "Info"}, {"code": f"PowerState/{power}", "level": "Info"}]}


def _found(call: Call) -> VirtualMachine:
    machine = call.account.machines.get(call.key)
    if machine is None:
        message = f"The Resource 'Microsoft.Compute/virtualMachines/{call.names['name']}' under resource group was not found."
        raise ArmError("ResourceNotFound", message)
    return machine


def _put(call: Call) -> Reply:
    name = checked_name(call.names["name"])
    there = call.account.machines.get(call.key)
    if there is not None and call.headers.get("if-none-match") == "*":
        raise ArmError("PreconditionFailed", f"The resource '{name}' exists.")
    tags = checked_tags(call.body.get("tags"))
    if there is not None:
        there.tags = tags
        return Reply(wire(there))
    properties = call.body.get("properties")
    profile = properties if isinstance(properties, dict) else {}
    order = ordered(call, profile, part(profile, "hardwareProfile", "vmSize"), tags)
    machines, error = start(call, order, [name], None)
    return call.goes_on(call.begin(order.location, machines, error=error), order.location, wire(machines[0]), 201)


def _get(call: Call) -> Reply:
    expand = call.query.get("$expand", "")
    machine = _found(call)
    body = wire(machine, statuses=same(expand, "instanceView"))
    if same(expand, "userData") and machine.machine is not None and machine.machine.spec.user_data:
        body["properties"]["userData"] = base64.b64encode(machine.machine.spec.user_data).decode()
    return Reply(body)


def _view(call: Call) -> Reply:
    return Reply(instance_view(_found(call)))


def _list(call: Call) -> Reply:
    """Machines that are old enough to be listed: by group or subscription, and by set where one is named."""
    wanted = _wanted_set(call)
    lag_s = call.account.datacenter.config.describe_lag_s
    only = call.query.get("statusOnly", "").lower() == "true"
    statuses = only or same(call.query.get("$expand", ""), "instanceView")
    if statuses and not only and wanted is None:
        raise ArmError("InvalidParameter", "The expand query parameter needs a filter.")
    items = [
        (" ".join(key), _status(machine) if only else wire(machine, statuses=statuses))
        for key, machine in call.account.machines.items()
        if call.in_group(key)
        and call.now - machine.created >= lag_s
        and (wanted is None or (machine.scale_set is not None and same(machine.scale_set.resource_id, wanted)))
    ]
    return Reply(page(items, call.query, call.origin + call.path))


def _status(machine: VirtualMachine) -> Json:
    told = wire(machine, statuses=True)
    told["properties"] = {key: told["properties"][key] for key in ("vmId", "provisioningState", "instanceView")}
    return told


def _wanted_set(call: Call) -> str | None:
    text = call.query.get("$filter")
    if text is None:
        return None
    match = _FILTER.fullmatch(text.strip())
    if match is None:
        raise ArmError("InvalidParameter", f"The filter '{text[:200]}' is not valid.")
    known = [each.resource_id for each in call.account.sets.values() if same(each.resource_id, match[1])]
    if not known:
        raise ArmError("ResourceNotFound", f"The Resource '{match[1][-150:]}' was not found.")
    return match[1]


def remove(call: Call, machines: list[VirtualMachine]) -> None:
    """Delete machines; those that never ran, or run no longer, are gone at once."""
    for each in machines:
        if each.machine is not None and each.machine.alive:
            call.account.datacenter.terminate(each.machine)
        else:
            key = next(key for key, known in call.account.machines.items() if known is each)
            del call.account.machines[key]


def _delete(call: Call) -> Reply:
    machine = call.account.machines.get(call.key)
    if machine is None:
        return Reply(status=204)
    remove(call, [machine])
    return call.goes_on(call.begin(machine.location, [machine], deletes=True), machine.location, None, 202)


def _evict(call: Call) -> Reply:
    found = _found(call)
    machine = found.machine
    if machine is None or not machine.alive or machine.pool.market != "spot":
        raise ArmError("OperationNotAllowed", "Only a running Azure Spot Virtual Machine can be evicted.")
    call.account.datacenter.reclaim(machine, EVICTION_NOTICE_S)
    return Reply(status=204)


_ONE = "{group}/providers/Microsoft.Compute/virtualMachines/{name}"
OPERATIONS: dict[str, tuple[str, str, Handler]] = {
    "VirtualMachines_CreateOrUpdate": ("PUT", _ONE, _put),
    "VirtualMachines_Get": ("GET", _ONE, _get),
    "VirtualMachines_Delete": ("DELETE", _ONE, _delete),
    "VirtualMachines_InstanceView": ("GET", f"{_ONE}/instanceView", _view),
    "VirtualMachines_SimulateEviction": ("POST", f"{_ONE}/simulateEviction", _evict),
    "VirtualMachines_List": ("GET", "{group}/providers/Microsoft.Compute/virtualMachines", _list),
    "VirtualMachines_ListAll": ("GET", "{sub}/providers/Microsoft.Compute/virtualMachines", _list),
}
