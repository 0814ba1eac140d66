"""What the handlers of EC2 actions share: the account they act on, and one call to it."""

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast_sandbox.datacenter import Datacenter
from holdfast_sandbox.ec2_templates import Params, Templates
from holdfast_sandbox.ec2_wire import Ec2Error, Wire

MAX_FILTER_VALUES = 200


@dataclass
class Account:
    """The state behind the EC2 endpoint."""

    datacenter: Datacenter
    wire: Wire
    templates: Templates = field(default_factory=Templates)
    tokens: dict[tuple[str, str, str], tuple[str, Params]] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """One request: its region (from the signature's scope), its parameters, its moment."""

    account: Account
    action: str
    region: str
    params: Params
    now: float

    def zone_names(self) -> list[str]:
        """The zones of the call's region, in order."""
        zones = self.account.datacenter.market.zones.values()
        return sorted(zone.name for zone in zones if zone.provider == "aws" and zone.region == self.region)

    def require_zone(self, name: str) -> str:
        """The name of a zone of this region; raises Ec2Error for another."""
        if name not in self.zone_names():
            message = f"Value ({name}) for parameter availabilityZone is invalid. Subnet or zone does not exist."
            raise Ec2Error("InvalidParameterValue", message)
        return name

    def zone_of_subnet(self, subnet_id: str) -> str:
        """The zone of a subnet; raises Ec2Error."""
        zone = subnet_id.removeprefix("subnet-")
        if not subnet_id.startswith("subnet-") or zone not in self.zone_names():
            raise Ec2Error("InvalidSubnetID.NotFound", f"The subnet ID '{subnet_id}' does not exist")
        return zone


Handler = Callable[[Call], Params]


def zone_id(region: str, zones: list[str], name: str) -> str:
    """A zone's id in EC2's manner (use1-az1), or the region's name with it where the region is not named EC2's way."""
    match = re.fullmatch(r"([a-z]{2})-(north|south|east|west|central)(east|west)?-(\d+)", region)
    short = f"{match[1]}{match[2][0]}{(match[3] or ' ')[0].strip()}{match[4]}" if match else region
    return f"{short}-az{zones.index(name) + 1}"


def subnet_of(zone: str) -> str:
    """The one subnet of a zone."""
    return f"subnet-{zone}"


def _pattern(value: str) -> re.Pattern[str]:
    """EC2's filter wildcards: * and ?, escaped by a backslash; the case counts."""
    pieces = re.findall(r"\\.|.", value, re.DOTALL)
    table = {"*": ".*", "?": "."}
    return re.compile("".join(table.get(piece, re.escape(piece[-1])) for piece in pieces), re.DOTALL)


class Filters:
    """The filters of a describe call: each must find one of its values among the thing's own."""

    def __init__(self, filters: list[Params] | None, names: Iterable[str]) -> None:
        """Raises Ec2Error for a filter that is none of `names` and no tag filter."""
        self._filters: list[tuple[str, list[re.Pattern[str]]]] = []
        for one in filters or []:
            name, values = one.get("Name", ""), one.get("Values", [])
            if name not in names and name not in ("tag-key", "tag-value") and not name.startswith("tag:"):
                raise Ec2Error("InvalidParameterValue", f"The filter '{name}' is invalid")
            if len(values) > MAX_FILTER_VALUES:
                raise Ec2Error("FilterLimitExceeded", f"The maximum number of filter values is {MAX_FILTER_VALUES}.")
            self._filters.append((name, [_pattern(value) for value in values]))

    def accept(self, attributes: Mapping[str, list[str]], tags: Mapping[str, str]) -> bool:
        """Whether something with these attributes (by filter name) and tags passes."""
        return all(
            any(pattern.fullmatch(value) for pattern in patterns for value in _values(name, attributes, tags))
            for name, patterns in self._filters
        )


def _values(name: str, attributes: Mapping[str, list[str]], tags: Mapping[str, str]) -> list[str]:
    if name.startswith("tag:"):
        key = name.removeprefix("tag:")
        return [tags[key]] if key in tags else []
    if name in ("tag-key", "tag-value"):
        return list(tags if name == "tag-key" else tags.values())
    return attributes[name]


def page(params: Params, keyed: Iterable[tuple[str, Any]], least: int = 1, most: int = 1000) -> tuple[list[Any], str | None]:
    """One page of items sorted by their keys, and the token of the next.

    The token says after which key to go on, so that items that come or go between two pages disturb nothing.
    """
    size = params.get("MaxResults")
    if size is not None and not least <= size <= most:
        message = f"Value ( {size} ) for parameter maxResults is invalid. Expecting a value between {least} and {most}."
        raise Ec2Error("InvalidParameterValue", message)
    after = _decode_token(params["NextToken"]) if params.get("NextToken") else None
    rest = sorted(((key, item) for key, item in keyed if after is None or key > after), key=lambda pair: pair[0])
    if size is None or len(rest) <= size:
        return [item for _, item in rest], None
    last = rest[size - 1][0]
    return [item for _, item in rest[:size]], base64.urlsafe_b64encode(f"after:{last}".encode()).decode()


def _decode_token(token: str) -> str:
    try:
        text = base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        text = ""
    if not text.startswith("after:"):
        raise Ec2Error("InvalidNextToken", "The specified NextToken is not valid.")
    return text.removeprefix("after:")
