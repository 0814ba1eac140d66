"""Azure's operations on flexible scale sets: create, change the size of, get, list, delete; delete some of the machines."""

from holdfast_sandbox.arm_account import Call, Handler, Operation, ScaleSet
from holdfast_sandbox.arm_launch import Order, member_names, ordered, start
from holdfast_sandbox.arm_machines import remove
from holdfast_sandbox.arm_wire import ArmError, Json, Reply, checked_name, checked_tags, page, part, time_text

MOST = 1000


def wire(call: Call, scale_set: ScaleSet) -> Json:
    """A set as it is told; its capacity is what it has, which deletions and evictions lower."""
    count = len(list(call.account.members(scale_set)))
    properties = {
        **scale_set.body,
        "provisioningState": _provisioning(scale_set),
        "timeCreated": time_text(scale_set.created),
    }
    return {
        "id": scale_set.resource_id,
        "name": scale_set.name,
        "type": "Microsoft.Compute/virtualMachineScaleSets",
        "location": scale_set.location,
        "zones": scale_set.zones,
        "tags": dict(scale_set.tags),
        "sku": {"name": part(scale_set.body, "size"), "tier": "Standard", "capacity": count},
        "properties": {key: value for key, value in properties.items() if key != "size"},
    }


def _provisioning(scale_set: ScaleSet) -> str:
    if scale_set.deleting:
        return "Deleting"
    status = scale_set.operation.status if scale_set.operation else "Succeeded"
    return "Creating" if status == "InProgress" else status


def _found(call: Call) -> ScaleSet:
    scale_set = call.account.sets.get(call.key)
    if scale_set is None:
        message = f"The Resource 'Microsoft.Compute/virtualMachineScaleSets/{call.names['name']}' under resource group was not found."
        raise ArmError("ResourceNotFound", message)
    return scale_set


def _capacity(call: Call) -> int:
    count = part(call.body, "sku", "capacity")
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MOST:
        raise ArmError("InvalidParameter", f"The capacity of a scale set is between 0 and {MOST}.")
    return count


def _order(call: Call, tags: dict[str, str]) -> Order:
    if part(call.body, "properties", "orchestrationMode") != "Flexible":
        raise ArmError("InvalidParameter", "This simulated cloud has scale sets in flexible orchestration mode only.")
    if part(call.body, "properties", "platformFaultDomainCount") != 1:
        raise ArmError("InvalidParameter", "platformFaultDomainCount must be 1 for a scale set with zones.")
    profile = part(call.body, "properties", "virtualMachineProfile")
    return ordered(call, profile if isinstance(profile, dict) else {}, part(call.body, "sku", "name"), tags)


def _put(call: Call) -> Reply:
    there = call.account.sets.get(call.key)
    if there is not None:
        return _change(call, there)
    name, tags, count = checked_name(call.names["name"]), checked_tags(call.body.get("tags")), _capacity(call)
    order = _order(call, tags)
    kept = {key: value for key, value in call.body["properties"].items() if key != "virtualMachineProfile"} | {"size": order.size}
    scale_set = ScaleSet(call.resource_id("virtualMachineScaleSets", name), name, order.location, order.zones, kept, tags, call.now)
    machines, error = start(call, order, member_names(name, count), scale_set)
    call.account.sets[call.key] = scale_set
    return _began(call, scale_set, call.begin(order.location, machines, error=error), 201)


def _change(call: Call, scale_set: ScaleSet) -> Reply:
    """A set that exists takes new tags and another capacity; all else is refused."""
    if call.headers.get("if-none-match") == "*":
        raise ArmError("PreconditionFailed", f"The resource '{scale_set.name}' exists.")
    if scale_set.deleting:
        raise ArmError("OperationNotAllowed", f"The scale set '{scale_set.name}' is marked for deletion.")
    order, count = _order(call, checked_tags(call.body.get("tags"))), _capacity(call)
    if (order.size, order.location, order.zones) != (scale_set.body["size"], scale_set.location, scale_set.zones):
        raise ArmError("PropertyChangeNotAllowed", "Changing the size, the location or the zones of a scale set is not allowed.")
    scale_set.tags = order.tags
    members = sorted(call.account.members(scale_set), key=lambda each: each.created)
    if count < len(members):
        remove(call, members[count:])
        return _began(call, scale_set, call.begin(order.location, members[count:], deletes=True), 200)
    machines, error = start(call, order, member_names(scale_set.name, count - len(members)), scale_set)
    return _began(call, scale_set, call.begin(order.location, machines, error=error), 200)


def _began(call: Call, scale_set: ScaleSet, operation: Operation, status: int) -> Reply:
    scale_set.operation = operation
    return call.goes_on(operation, scale_set.location, wire(call, scale_set), status)


def _get(call: Call) -> Reply:
    return Reply(wire(call, _found(call)))


def _list(call: Call) -> Reply:
    items = [(" ".join(key), wire(call, each)) for key, each in call.account.sets.items() if call.in_group(key)]
    return Reply(page(items, call.query, call.origin + call.path))


def _delete(call: Call) -> Reply:
    scale_set = call.account.sets.get(call.key)
    if scale_set is None:
        return Reply(status=204)
    members = list(call.account.members(scale_set))
    scale_set.deleting = True
    remove(call, members)
    return call.goes_on(call.begin(scale_set.location, members, deletes=True), scale_set.location, None, 202)


def _delete_machines(call: Call) -> Reply:
    scale_set = _found(call)
    names = call.body.get("instanceIds")
    if not isinstance(names, list) or not names:
        raise ArmError("InvalidParameter", "Required parameter 'instanceIds' is missing (null).")
    known = {each.name.lower(): each for each in call.account.members(scale_set)}
    unknown = [str(name) for name in names if str(name).lower() not in known]
    if unknown:
        raise ArmError("InvalidParameter", f"The provided instanceId {unknown[0][:80]} is not an active instance of the scale set.")
    members = [known[name] for name in dict.fromkeys(str(name).lower() for name in names)]
    remove(call, members)
    return call.goes_on(call.begin(scale_set.location, members, deletes=True), scale_set.location, None, 202)


def _list_machines(call: Call) -> Reply:
    """The machines of a flexible set, which this call tells by their names and ids only."""
    members = call.account.members(_found(call))
    items = [(each.name, {"id": each.resource_id, "instanceId": each.name, "name": each.name}) for each in members]
    return Reply(page(items, call.query, call.origin + call.path))


_ONE = "{group}/providers/Microsoft.Compute/virtualMachineScaleSets/{name}"
OPERATIONS: dict[str, tuple[str, str, Handler]] = {
    "VirtualMachineScaleSets_CreateOrUpdate": ("PUT", _ONE, _put),
    "VirtualMachineScaleSets_Get": ("GET", _ONE, _get),
    "VirtualMachineScaleSets_Delete": ("DELETE", _ONE, _delete),
    "VirtualMachineScaleSets_DeleteInstances": ("POST", f"{_ONE}/delete", _delete_machines),
    "VirtualMachineScaleSetVMs_List": ("GET", f"{_ONE}/virtualMachines", _list_machines),
    "VirtualMachineScaleSets_List": ("GET", "{group}/providers/Microsoft.Compute/virtualMachineScaleSets", _list),
    "VirtualMachineScaleSets_ListAll": ("GET", "{sub}/providers/Microsoft.Compute/virtualMachineScaleSets", _list),
}
