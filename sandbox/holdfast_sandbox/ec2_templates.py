"""Launch templates: what the launch of an instance starts from."""

import base64
import binascii
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from holdfast_sandbox.ec2_wire import Ec2Error
from holdfast_sandbox.machine import LaunchSpec

Params = dict[str, Any]
MAX_USER_DATA_BYTES = 16 * 1024  # EC2's limit, before base64


@dataclass
class LaunchTemplate:
    """A named series of versions; version N is `versions[N - 1]`."""

    template_id: str
    name: str
    region: str
    created: float
    versions: list[Params] = field(default_factory=list)
    descriptions: list[str] = field(default_factory=list)
    default_version: int = 1
    tags: dict[str, str] = field(default_factory=dict)

    def describe(self) -> Params:
        """This template as EC2 describes it."""
        return {
            "LaunchTemplateId": self.template_id,
            "LaunchTemplateName": self.name,
            "CreateTime": self.created,
            "CreatedBy": "arn:aws:iam::000000000000:root",
            "DefaultVersionNumber": self.default_version,
            "LatestVersionNumber": len(self.versions),
            "Tags": tag_list(self.tags),
        }

    def version_number(self, text: str | None) -> int:
        """The version that "$Latest", "$Default" (also None) or a number names; raises Ec2Error."""
        if text in (None, "", "$Default"):
            return self.default_version
        if text == "$Latest":
            return len(self.versions)
        number = int(text) if str(text).isascii() and str(text).isdigit() else 0
        if not 1 <= number <= len(self.versions):
            message = f"Could not find the specified version {text} for the launch template with ID {self.template_id}."
            raise Ec2Error("InvalidLaunchTemplateId.VersionNotFound", message)
        return number


class Templates:
    """All launch templates, by region and name."""

    def __init__(self) -> None:
        self._by_id: dict[str, LaunchTemplate] = {}

    def create(self, region: str, params: Params, now: float) -> LaunchTemplate:
        """A new template with its first version; raises Ec2Error where the name is taken."""
        name = params["LaunchTemplateName"]
        if any(template.name == name and template.region == region for template in self._by_id.values()):
            message = f"Launch template name already in use: {name}"
            raise Ec2Error("InvalidLaunchTemplateName.AlreadyExistsException", message)
        launch_spec(params["LaunchTemplateData"])  # refuses bad user data now
        template = LaunchTemplate(f"lt-{secrets.token_hex(9)[:17]}", name, region, now)
        template.tags = specified_tags(params.get("TagSpecifications"), "launch-template")
        template.versions.append(params["LaunchTemplateData"])
        template.descriptions.append(params.get("VersionDescription", ""))
        self._by_id[template.template_id] = template
        return template

    def add_version(self, region: str, params: Params) -> LaunchTemplate:
        """A further version, on top of SourceVersion where one is named; raises Ec2Error."""
        template = self.find(region, params)
        data = dict(params["LaunchTemplateData"])
        if "SourceVersion" in params:
            data = template.versions[template.version_number(params["SourceVersion"]) - 1] | data
        launch_spec(data)
        template.versions.append(data)
        template.descriptions.append(params.get("VersionDescription", ""))
        return template

    def find(self, region: str, wanted: Params) -> LaunchTemplate:
        """The template that LaunchTemplateId or LaunchTemplateName names; raises Ec2Error."""
        template_id, name = wanted.get("LaunchTemplateId"), wanted.get("LaunchTemplateName")
        if (template_id is None) == (name is None):
            raise Ec2Error("MissingParameter", "Either a launch template ID or a launch template name must be specified.")
        for template in self.all(region):
            if template_id == template.template_id or name == template.name:
                return template
        if template_id is not None:
            message = f"The specified launch template, with template ID {template_id}, does not exist."
            raise Ec2Error("InvalidLaunchTemplateId.NotFound", message)
        message = f"The specified launch template, with template name {name}, does not exist."
        raise Ec2Error("InvalidLaunchTemplateName.NotFoundException", message)

    def all(self, region: str) -> list[LaunchTemplate]:
        """The region's templates, oldest first."""
        return [template for template in self._by_id.values() if template.region == region]

    def delete(self, template: LaunchTemplate) -> None:
        """Forget a template with all its versions."""
        del self._by_id[template.template_id]

    def tags_of(self, template_id: str) -> dict[str, str] | None:
        """The tags of a template to be changed in place, or None where there is no such template."""
        template = self._by_id.get(template_id)
        return template.tags if template else None


def tag_list(tags: dict[str, str]) -> list[dict[str, str]]:
    """Tags as EC2 lists them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def checked_tags(pairs: Iterable[dict[str, str]]) -> dict[str, str]:
    """Tags of a request, within EC2's limits (50 tags, keys of 128 and values of 256 characters, no aws:)."""
    tags: dict[str, str] = {}
    for pair in pairs:
        key, value = pair.get("Key", ""), pair.get("Value", "")
        if not key or len(key) > 128 or len(value) > 256 or key.lower().startswith("aws:"):
            raise Ec2Error("InvalidParameterValue", f"Tag key or value is not valid: {key[:150]}")
        tags[key] = value
    if len(tags) > 50:
        raise Ec2Error("TagLimitExceeded", "The maximum number of tags for this resource is 50.")
    return tags


def specified_tags(specifications: list[Params] | None, resource: str) -> dict[str, str]:
    """The tags that TagSpecifications give to one kind of resource."""
    pairs = [tag for spec in specifications or [] if spec.get("ResourceType") == resource for tag in spec.get("Tags", [])]
    return checked_tags(pairs)


def launch_spec(data: Params) -> LaunchSpec:
    """What a launch template's data (or a RunInstances request merged over it) says of an instance; raises Ec2Error."""
    metadata = data.get("MetadataOptions", {})
    profile = data.get("IamInstanceProfile", {})
    return LaunchSpec(
        image_id=data.get("ImageId", ""),
        user_data=_user_data(data.get("UserData", "")),
        key_name=data.get("KeyName"),
        iam_instance_profile=profile.get("Arn") or profile.get("Name"),
        security_group_ids=tuple(data.get("SecurityGroupIds", [])),
        http_tokens=metadata.get("HttpTokens", "required"),
        http_endpoint=metadata.get("HttpEndpoint", "enabled"),
        metadata_tags=metadata.get("InstanceMetadataTags", "disabled"),
        tags=specified_tags(data.get("TagSpecifications"), "instance"),
        attributes=_attributes(data),
    )


def _attributes(data: Params) -> dict[str, Any]:
    """What is only told back: placement group, interfaces, capacity reservation, market, what a shutdown means."""
    options = data.get("InstanceMarketOptions", {})
    return {
        "group": data.get("Placement", {}).get("GroupName", ""),
        "interfaces": data.get("NetworkInterfaces", []),
        "reservation": data.get("CapacityReservationSpecification", {}).get("CapacityReservationTarget"),
        "lifecycle": options.get("MarketType", ""),
        "on_shutdown": data.get("InstanceInitiatedShutdownBehavior", "stop"),
    }


def _user_data(encoded: str) -> bytes:
    """User data travels base64-encoded; in a launch template it is the caller who has to encode it, not boto3."""
    try:
        content = base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Ec2Error("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data.") from None
    if len(content) > MAX_USER_DATA_BYTES:
        raise Ec2Error("InvalidParameterValue", f"User data is limited to {MAX_USER_DATA_BYTES} bytes.")
    return content
