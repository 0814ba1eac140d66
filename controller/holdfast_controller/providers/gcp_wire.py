"""Between our words and Compute Engine's: what a bulkInsert asks for, and what the lists say. Pure.

Label values are lower case and short, so that they serve the filters only; the full tags stand in a metadata item of each instance.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from holdfast_controller.providers.base import Instance, LaunchRequest, Market, Pool
from holdfast_controller.providers.gcp_calls import last, region_of
from holdfast_controller.providers.gcp_config import GcpConfig
from holdfast_controller.providers.tags import TAG_CLUSTER, TAG_LAUNCH, own_tags

CALL_MAX = 1000
"""Instances per bulkInsert: what one zone takes in one call."""
USER_DATA_MAX_BYTES = 262_144
"""Of one metadata value; all of an instance's may have twice that."""
TAGS_MAX_BYTES = 65_536
USER_DATA_ITEM = "user-data"
"""Where cloud-init looks on Google."""
TAGS_ITEM = "holdfast-tags"
LABEL_CLUSTER, LABEL_LAUNCH = "holdfast-cluster", "holdfast-launch"
TAG_REQUEST = "holdfast:request"
"""Tells a launch repeated from a launch id used twice: Compute Engine ignores a known request id's body."""
TAG_CALL = "holdfast:call"
"""Tells how a launch was called: the same request becomes another call, unknown to the first one's token, when the settings change."""
INSTANCE_ID = re.compile(r"[1-9][0-9]{0,19}", re.ASCII)
_LABEL = re.compile(r"[a-z0-9_-]{1,63}", re.ASCII)
_HASHED = "h--"
_NAMESPACE = uuid.UUID("5b0e1f0a-6e0f-4b7e-9d53-6a1f5b0c2d11")
_STATES = {"PROVISIONING": "pending", "STAGING": "pending", "PENDING": "pending", "RUNNING": "running", "REPAIRING": "running"}
_STOPPING = {"STOPPING", "STOPPED", "PENDING_STOP", "TERMINATED", "SUSPENDING", "SUSPENDED", "DEPROVISIONING"}


def label_value(text: str) -> str:
    """Return the label value that stands for a text: itself where it may, else a hash. Two texts never share one."""
    if _LABEL.fullmatch(text) and not text.startswith(_HASHED):
        return text
    return _HASHED + hashlib.sha256(text.encode()).hexdigest()[:60]


def filter_of(cluster: str, launch_id: str | None = None) -> str:
    """Return the filter of a list for one cluster's instances, or one launch's."""
    ours = f'labels.{LABEL_CLUSTER} = "{label_value(cluster)}"'
    return ours if launch_id is None else f'({ours}) AND (labels.{LABEL_LAUNCH} = "{label_value(launch_id)}")'


@dataclass(frozen=True, slots=True)
class Part:
    """One call of a launch."""

    number: int
    first: int
    count: int
    minimum: int


def parts(request: LaunchRequest) -> Iterator[Part]:
    """Split a launch into calls; the same request always into the same ones. The first calls carry the minimum."""
    needed, first, number = request.minimum, 0, 0
    while first < request.count:
        count = min(request.count - first, CALL_MAX)
        yield Part(number, first, count, max(1, min(needed, count)))
        needed, first, number = needed - count, first + count, number + 1


def request_id(launch_id: str, part: Part, attempt: int) -> str:
    """Return the UUID by which Compute Engine knows a call again."""
    return str(uuid.uuid5(_NAMESPACE, f"{launch_id}/{part.number}/{attempt}"))


def names(cluster: str, launch_id: str, part: Part) -> list[str]:
    """Return the instances' names: the same launch always asks for the same ones, so that a second set cannot be made beside the first."""
    slug = re.sub(r"[^a-z0-9-]", "-", cluster.lower())[:20]
    digest = hashlib.sha256(f"{cluster}/{launch_id}".encode()).hexdigest()[:20]
    return [f"hf-{slug}-{digest}-{number:05d}" for number in range(part.first, part.first + part.count)]


def digest_of(request: LaunchRequest) -> str:
    """Return what tells this request from another one with the same launch id."""
    said = [request.pool.name, request.count, request.minimum, request.template, request.user_data, sorted(request.tags.items())]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def call_digest(config: GcpConfig, request: LaunchRequest) -> str:
    """Return what tells calls of the same request apart: where they may start instances."""
    place = place_of(config, request)
    return hashlib.sha256(json.dumps([place.region, place.zones, place.types]).encode()).hexdigest()[:16]


def asked_otherwise(config: GcpConfig, request: LaunchRequest, instance: Instance) -> bool:
    """Whether an instance of the launch came of another call than the one that would be made now."""
    said = {TAG_REQUEST: digest_of(request), TAG_CALL: call_digest(config, request)}
    return any(instance.tags.get(tag, now) != now for tag, now in said.items())


@dataclass(frozen=True, slots=True)
class Place:
    """Where one call may start instances: every one of the types in every one of the zones."""

    region: str
    zones: tuple[str, ...]
    types: tuple[str, ...]
    market: Market
    pools: tuple[Pool, ...]

    @property
    def zonal(self) -> bool:
        """Whether it is one pool. Only a regional call chooses: among zones, and (bulkInsert's own rule) among machine types."""
        return len(self.pools) == 1


def place_of(config: GcpConfig, request: LaunchRequest) -> Place:
    """Return where the request may go in one call.

    That is the first pool alone where a placement policy, a reservation, a price cap or several calls bind it, else what else the request
    names in that region, as far as zones and types can be crossed. It depends on nothing that changes: a repeated launch must ask the same.
    """
    lead = request.pool
    given = [pool for pool in request.pools if (pool.region, pool.market) == (lead.region, lead.market)]
    bound = request.count > CALL_MAX or any(_bound(config, pool) for pool in given)
    allowed = [lead] if bound else [pool for pool in given if template_of(config, request, pool) == template_of(config, request, lead)]
    at = {(pool.zone, pool.instance_type): pool for pool in reversed(allowed)}
    zones = tuple(dict.fromkeys(pool.zone for pool in allowed if pool.instance_type == lead.instance_type))
    types = tuple(
        dict.fromkeys(pool.instance_type for pool in allowed if all((zone, pool.instance_type) in at for zone in zones)),
    )
    pools = tuple(at[zone, kind] for kind in types for zone in zones)
    return Place(lead.region, zones, types, lead.market, pools)


def _bound(config: GcpConfig, pool: Pool) -> bool:
    return pool.zone in config.placement_policies or pool.zone in config.reservations or pool.price_cap_usd_h is not None


def template_of(config: GcpConfig, request: LaunchRequest, pool: Pool) -> str:
    """Return the partial URL of the instance template; empty where there is none."""
    named = request.template or config.instance_templates.get(pool.name, config.instance_template)
    return named if "/" in named or not named else f"global/instanceTemplates/{named}"


def bulk_resource(config: GcpConfig, request: LaunchRequest, place: Place, part: Part) -> dict[str, Any]:
    """Return the body of one bulkInsert call."""
    template = template_of(config, request, request.pool)
    properties = {
        "labels": {LABEL_CLUSTER: label_value(config.cluster), LABEL_LAUNCH: label_value(request.launch_id)},
        "metadata": {"items": _metadata(config, request)},
        "scheduling": _scheduling(config, place.market),
        **_binding(config, place),
        **({} if template else _machine(config, place.region)),
    }
    if config.network_tags:
        properties["tags"] = {"items": list(config.network_tags)}
    if config.service_account:
        properties["service_accounts"] = [{"email": config.service_account, "scopes": ["https://www.googleapis.com/auth/cloud-platform"]}]
    resource: dict[str, Any] = {
        "count": part.count,
        "min_count": part.minimum,
        "per_instance_properties": {name: {} for name in names(config.cluster, request.launch_id, part)},
        "instance_properties": properties,
    }
    if template:
        resource["source_instance_template"] = template
    if len(place.types) == 1:
        properties["machine_type"] = place.types[0]
    else:
        selections = {f"choice-{rank}": {"machine_types": [kind], "rank": rank} for rank, kind in enumerate(place.types)}
        resource["instance_flexibility_policy"] = {"instance_selections": selections}
    if not place.zonal:
        # `zones` names the only zones to be used (GoogleCloudPlatform/cluster-toolkit#5378); `locations` alone would leave others open
        where = {f"zones/{zone}": {"preference": "ALLOW"} for zone in place.zones}
        listed = [{"zone": zone} for zone in where]
        resource["location_policy"] = {"locations": where, "zones": listed, "target_shape": "ANY_SINGLE_ZONE"}
    return resource


def _metadata(config: GcpConfig, request: LaunchRequest) -> list[dict[str, str]]:
    items = {TAGS_ITEM: tags_text(config, request)} | ({USER_DATA_ITEM: request.user_data} if request.user_data else {})
    if request.pool.market is Market.SPOT and config.preemption_notice_s is not None:
        items[NOTICE_ITEM] = str(config.preemption_notice_s)
    return [{"key": key, "value": value} for key, value in items.items()]


NOTICE_ITEM = "holdfast-notice-s"
"""Tells the agent its window, which the guest's metadata does not."""


def tags_text(config: GcpConfig, request: LaunchRequest) -> str:
    """Return the metadata item that holds all tags."""
    told = {TAG_REQUEST: digest_of(request), TAG_CALL: call_digest(config, request)}
    return json.dumps(own_tags(config.cluster, request) | told, sort_keys=True)


def _scheduling(config: GcpConfig, market: Market) -> dict[str, Any]:
    # a machine with GPUs cannot be moved alive, so that host maintenance can only end it; and a restarted one would be nobody's node
    scheduling: dict[str, Any] = {"on_host_maintenance": "TERMINATE", "automatic_restart": False, "provisioning_model": "STANDARD"}
    if market is Market.SPOT:
        scheduling |= {"provisioning_model": "SPOT", "instance_termination_action": "DELETE"}
        if config.preemption_notice_s is not None:
            scheduling["preemption_notice_duration"] = {"seconds": config.preemption_notice_s}
    return scheduling


def _binding(config: GcpConfig, place: Place) -> dict[str, Any]:
    binding: dict[str, Any] = {}
    zone = place.zones[0]
    if policy := config.placement_policies.get(zone):
        binding["resource_policies"] = [policy]
    if (name := config.reservations.get(zone)) and place.market is Market.ON_DEMAND:
        key = "compute.googleapis.com/reservation-name"
        binding["reservation_affinity"] = {"consume_reservation_type": "SPECIFIC_RESERVATION", "key": key, "values": [name]}
    return binding


def _machine(config: GcpConfig, region: str) -> dict[str, Any]:
    """Return disk and network, where no template brings them."""
    network = {"network": config.network}
    if subnetwork := config.subnetworks.get(region):
        network = {"subnetwork": subnetwork}
    interface: dict[str, Any] = dict(network)
    if config.external_address:
        interface["access_configs"] = [{"type_": "ONE_TO_ONE_NAT", "name": "External NAT"}]
    start = {"source_image": config.image, "disk_size_gb": config.boot_disk_gb, "disk_type": config.boot_disk_type}
    return {"network_interfaces": [interface], "disks": [{"boot": True, "auto_delete": True, "initialize_params": start}]}


def pool_name(provider: str, zone: str, instance_type: str, market: Market) -> str:
    """Return a pool's name: `gcp/us-central1/us-central1-a/a3-highgpu-8g/spot`."""
    return f"{provider}/{region_of(zone)}/{zone}/{instance_type}/{market.value}"


def instance_of(said: Any, provider: str) -> Instance:
    """Return an instance as Compute Engine lists it.

    A stopped instance (TERMINATED) still is, and costs its disks; gone is what is listed no more. A status that Google may invent later
    counts as running: unknown is not gone.
    """
    tags = tags_of(said)
    label = said.labels.get(LABEL_LAUNCH, "")
    market = Market.SPOT if said.scheduling.provisioning_model == "SPOT" else Market.ON_DEMAND
    return Instance(
        instance_id=str(said.id),
        launch_id=tags.get(TAG_LAUNCH, "" if label.startswith(_HASHED) else label),
        pool=pool_name(provider, last(said.zone), last(said.machine_type), market),
        state="stopping" if said.status in _STOPPING else _STATES.get(said.status, "running"),
        address=next((each.network_i_p for each in said.network_interfaces), ""),
        launched=seconds_of(said.creation_timestamp) or 0.0,
        state_reason=said.status_message,
        tags=tags,
    )


def is_of(instance: Instance, cluster: str, launch_id: str | None = None) -> bool:
    """Whether it is the cluster's, and the launch's, by its own full tags: the filter knows labels only."""
    return instance.tags.get(TAG_CLUSTER, cluster) == cluster and launch_id in (None, instance.launch_id)


def tags_of(said: Any) -> dict[str, str]:
    """Return the tags in an instance's metadata; none where that is missing or malformed."""
    text = next((item.value for item in said.metadata.items if item.key == TAGS_ITEM), "")
    if not text or len(text) > TAGS_MAX_BYTES:
        return {}
    try:
        tags = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return {key: value for key, value in tags.items() if isinstance(value, str)} if isinstance(tags, Mapping) else {}


def instances_in(pages: Iterable[Any], provider: str) -> list[Instance]:
    """Return the instances of an aggregated list."""
    return [instance_of(said, provider) for page in pages for scope in page.items.values() for said in scope.instances]


def seconds_of(text: str) -> float | None:
    """Return a time of Google's (RFC 3339) as Unix seconds; None where it is none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.timestamp() if moment.tzinfo is not None else None
