"""Launch templates that live for one launch: CreateFleet takes user data from a template only, and ours holds a one-time token.

A template of our own per launch, and not a further version of the configured one: whoever says `$Latest` elsewhere would get our user data,
versions are numbered by EC2, so that a launch asked for again could not name the same one, and a name of ours is known before any call.
What the configured template says is read and taken over. Ours goes as soon as its fleet has answered; what a crash leaves
behind, or a launch that was given up, is found by its tag and name, and goes an hour later, with a listing of instances.
"""

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Mapping
from datetime import datetime
from typing import Any

from holdfast_common.clock import Clock

from holdfast_controller.providers.aws_calls import AwsCalls
from holdfast_controller.providers.aws_config import AwsConfig
from holdfast_controller.providers.aws_errors import UNKNOWN_TEMPLATE
from holdfast_controller.providers.aws_fleet_wire import Template, template_prefix
from holdfast_controller.providers.aws_machine import reference
from holdfast_controller.providers.base import ProviderError
from holdfast_controller.providers.tags import TAG_CLUSTER, TAG_LAUNCH

LEFT_BEHIND_S = 3600.0
"""A template of ours that is so old belongs to no launch any more; also how often is looked for such."""
NAME_TAKEN = "InvalidLaunchTemplateName.AlreadyExistsException"
PAGE_SIZE = 200
"""The most that DescribeLaunchTemplates takes."""
_log = logging.getLogger(__name__)


class LaunchTemplates:
    """The templates of one account. What is tidied up is done beside: nobody waits for it, and it fails without harm."""

    def __init__(self, calls: AwsCalls, config: AwsConfig, clock: Clock) -> None:
        self._calls = calls
        self._config = config
        self._clock = clock
        self._swept: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def base(self, region: str, text: str) -> Mapping[str, Any]:
        """Return what a configured template says; raises ProviderError."""
        named = reference(text)
        versions = [named.pop("Version")]
        answer = await self._calls.call(region, "describe_launch_template_versions", Versions=versions, **named)
        return dict(answer["LaunchTemplateVersions"][0]["LaunchTemplateData"])

    async def make(self, region: str, template: Template, launch_id: str) -> None:
        """Make a launch's template; it may be there from an earlier try. Raises ProviderError.

        Without a client token: a repeat would be answered from EC2's memory although the template has been deleted since.
        """
        tags = [{"Key": TAG_CLUSTER, "Value": self._config.cluster}, {"Key": TAG_LAUNCH, "Value": launch_id}]
        try:
            await self._calls.call(
                region,
                "create_launch_template",
                LaunchTemplateName=template.name,
                LaunchTemplateData=dict(template.data),
                TagSpecifications=[{"ResourceType": "launch-template", "Tags": tags}],
            )
        except ProviderError as error:
            if error.fault.code != NAME_TAKEN:
                raise

    def drop(self, region: str, names: Iterable[str]) -> None:
        """Delete a launch's templates."""
        self._beside(self._delete(region, list(names)))

    def sweep(self, region: str) -> None:
        """Delete, once an hour, those that a crash has left, or a launch that nobody asked for again."""
        now = self._clock.monotonic()
        if not self._closed and now - self._swept.get(region, -LEFT_BEHIND_S) >= LEFT_BEHIND_S:
            self._swept[region] = now
            self._beside(self._sweep(region))

    async def close(self) -> None:
        """Tidy up no more; what is left goes with another process's next look."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _delete(self, region: str, names: Iterable[str]) -> None:
        for name in names:
            try:
                await self._calls.call(region, "delete_launch_template", LaunchTemplateName=name)
            except ProviderError as error:
                if error.fault.code not in UNKNOWN_TEMPLATE:
                    _log.warning("%s: launch template %s is left for later: %s", region, name, error)

    async def _sweep(self, region: str) -> None:
        ours = [{"Name": f"tag:{TAG_CLUSTER}", "Values": [self._config.cluster]}, {"Name": "tag-key", "Values": [TAG_LAUNCH]}]
        try:
            found = await self._calls.pages(region, "describe_launch_templates", "LaunchTemplates", page_size=PAGE_SIZE, Filters=ours)
        except ProviderError as error:
            _log.warning("%s: launch templates that may be left of earlier launches are not known: %s", region, error)
            return
        await self._delete(region, [str(said["LaunchTemplateName"]) for said in found if self._is_left(said)])

    def _is_left(self, said: Mapping[str, Any]) -> bool:
        made, name = said.get("CreateTime"), str(said.get("LaunchTemplateName", ""))
        old = isinstance(made, datetime) and self._clock.now() - made.timestamp() >= LEFT_BEHIND_S
        return old and name.startswith(template_prefix(self._config))
