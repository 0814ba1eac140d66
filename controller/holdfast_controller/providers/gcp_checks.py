"""What is wrong with a pool or a request before Compute Engine is asked."""

from collections.abc import Iterator

from holdfast_controller.providers.base import Fault, FaultKind, LaunchRequest, Pool
from holdfast_controller.providers.gcp_config import GcpConfig
from holdfast_controller.providers.gcp_wire import TAGS_MAX_BYTES, USER_DATA_MAX_BYTES, pool_name, tags_text, template_of
from holdfast_controller.providers.tags import request_fault


def wrong_request(config: GcpConfig, request: LaunchRequest) -> Fault | None:
    """Return why a request cannot be made, a CONFIG fault."""
    message = next(filter(None, (pool_fault(config, pool) for pool in request.pools)), "")
    if not message:
        message = next(_body_faults(config, request), "")
    if message:
        return Fault(FaultKind.CONFIG, "BadRequest", message, pool=request.pool.name)
    return request_fault(request)


def _body_faults(config: GcpConfig, request: LaunchRequest) -> Iterator[str]:
    size = len(request.user_data.encode())
    if size > USER_DATA_MAX_BYTES:
        yield f"user data of {size} bytes; Compute Engine takes {USER_DATA_MAX_BYTES}"
    if len(tags_text(config, request)) > TAGS_MAX_BYTES:
        yield f"tags of more than {TAGS_MAX_BYTES} bytes"
    if not config.image and not template_of(config, request, request.pool):
        yield "neither an instance template nor an image is set"


def pool_fault(config: GcpConfig, pool: Pool) -> str:
    """Return why a pool is none of the provider's; empty where it is one."""
    name = pool_name(config.name, pool.zone, pool.instance_type, pool.market)
    if pool.provider != config.name or pool.name != name or pool.region != name.split("/")[1]:
        return f"pool {pool.name} of provider {pool.provider} must be named {name}, with that region"
    if pool.region not in config.regions:
        return f"pool {pool.name}: region {pool.region} is not among those that are listed ({', '.join(config.regions)})"
    return ""
