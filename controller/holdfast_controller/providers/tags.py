"""The tags that every instance of ours carries from its creation on, and what a launch may ask for at all."""

import re

from holdfast_controller.providers.base import Fault, FaultKind, LaunchRequest

TAG_CLUSTER = "holdfast:cluster"
TAG_LAUNCH = "holdfast:launch"
TAG_POOL = "holdfast:pool"

LAUNCH_ID = re.compile(r"[A-Za-z0-9._:/=+@-]{1,64}")
"""EC2 takes 64 ASCII characters as a client token; without `*`, `?` and `\\`, which are wildcards in its filters."""
TAG_KEY = re.compile(r"(?!\.{1,2}$|_index$)[A-Za-z0-9+=.,_:@-]{1,128}")
"""What EC2 allows once the instance may read its tags from its metadata service (InstanceMetadataTags=enabled)."""


def own_tags(cluster: str, request: LaunchRequest) -> dict[str, str]:
    """Return all tags of the request's instances; ours cannot be overridden."""
    return {
        "Name": f"holdfast-{cluster}",
        **request.tags,
        TAG_CLUSTER: cluster,
        TAG_LAUNCH: request.launch_id,
        TAG_POOL: request.pool.name,
    }


def request_fault(request: LaunchRequest) -> Fault | None:
    """Return why no cloud could take this request, or None. Asked before any call, so that every provider refuses alike."""
    bad_keys = sorted(key for key in request.tags if not TAG_KEY.fullmatch(key))
    message = ""
    if not LAUNCH_ID.fullmatch(request.launch_id):
        message = f"launch id {request.launch_id[:80]!r} is not 1 to 64 of A-Z a-z 0-9 . _ : / = + @ -"
    elif not 1 <= request.minimum <= request.count:
        message = f"minimum {request.minimum} and count {request.count}: 1 <= minimum <= count is required"
    elif bad_keys:
        message = f"tag key {bad_keys[0][:80]!r} could not be read by the instance itself"
    return Fault(FaultKind.CONFIG, "BadRequest", message, pool=request.pool.name) if message else None
