"""Which cloud this machine is of, without configuration.

In this order: the setting; what was found earlier in this boot; the firmware's own words (DMI), unless an address of the service was
given, since then it is not the machine's own that counts; else the three metadata services are asked side by side, until one says what
only it would say.
"""

import asyncio
import logging
import re
from collections.abc import Mapping
from pathlib import Path

from holdfast_common.clock import Clock
from holdfast_common.errors import ConfigError, Temporary

from holdfast_nodeagent.notices import aws, azure, gcp
from holdfast_nodeagent.notices.base import NoticeSource
from holdfast_nodeagent.notices.http import PLAIN_HTTP, MetadataHttp

CLOUDS = ("aws", "gcp", "azure")
LINK_LOCAL = "http://169.254.169.254"
"""All three answer there; `metadata.google.internal` is the same address, and needs a resolver."""
DMI = Path("/sys/class/dmi/id")
ROUND_S = 5.0
"""An attempt to find a service ends after this time."""
AZURE_TAG = "7783-7084-3265-9085-8269-3286-77"
"""The asset tag of every Azure VM. Its vendor and product are those of any Hyper-V machine, which may stand anywhere."""

_INSTANCE_ID = re.compile(r"i-[0-9a-f]{1,32}")

log = logging.getLogger(__name__)


def by_dmi(directory: Path = DMI) -> str:
    """Return the cloud that the firmware names; empty where it names none, or two."""
    said = {name: _first_line(directory / name) for name in ("sys_vendor", "product_name", "bios_vendor", "chassis_asset_tag")}
    found = {
        "aws": "Amazon EC2" in (said["sys_vendor"], said["bios_vendor"]),
        "gcp": said["product_name"] == "Google Compute Engine",
        "azure": said["chassis_asset_tag"] == AZURE_TAG,
    }
    named = [cloud for cloud, is_it in found.items() if is_it]
    return named[0] if len(named) == 1 else ""


def overrides(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the addresses that the clouds' own variables give, by cloud. Raises ConfigError for one that is no plain HTTP address."""
    said = {
        "aws": environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", ""),
        "gcp": f"http://{host}" if (host := environment.get("GCE_METADATA_HOST", "")) else "",
    }
    for cloud, url in said.items():
        if url and not PLAIN_HTTP.fullmatch(url):
            raise ConfigError("the environment", [f"the address of the metadata service of {cloud} is not http://host[:port][/path]"])
    return {cloud: url.rstrip("/") for cloud, url in said.items() if url}


def addresses(setting: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return where each cloud's service is to be asked: by the setting, by the cloud's own variable, else its usual address."""
    if setting:
        return dict.fromkeys(CLOUDS, setting)
    return {**dict.fromkeys(CLOUDS, LINK_LOCAL), **overrides(environment)}


def open_source(cloud: str, url: str, clock: Clock) -> NoticeSource:
    """Return the cloud's notices, from the service at the address."""
    if cloud == "gcp":
        return gcp.GcpMetadata(MetadataHttp(url, threads=gcp.THREADS), clock)
    if cloud == "azure":
        return azure.AzureMetadata(MetadataHttp(url), MetadataHttp(url), clock)
    return aws.AwsMetadata(MetadataHttp(url), clock)


async def detect(setting: str, environment: Mapping[str, str], clock: Clock, dmi: Path = DMI) -> str:
    """Return the cloud, asking until one answers. `setting` is the address in the settings, or empty. Raises ConfigError."""
    if not setting and not overrides(environment):
        cloud = by_dmi(dmi)
        if cloud:
            return cloud
    urls = addresses(setting, environment)
    fault, pause_s = "", 0.2
    while True:
        try:
            return await ask(urls, clock)
        except Temporary as error:
            if str(error) != fault:
                fault = str(error)
                log.warning("which cloud is this? %s", fault)
        await clock.sleep(pause_s)
        pause_s = min(5.0, pause_s * 2)


async def ask(urls: Mapping[str, str], clock: Clock) -> str:
    """Return the first cloud whose service says who we are, all asked side by side. Raises Temporary where none does in time."""
    sources = {cloud: open_source(cloud, url, clock) for cloud, url in urls.items()}
    tasks = {asyncio.ensure_future(_is_it(cloud, source)): cloud for cloud, source in sources.items()}
    faults: dict[str, str] = {}
    try:
        async with asyncio.timeout(ROUND_S):
            pending = set(tasks)
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    fault = task.result()
                    if not fault:
                        return tasks[task]
                    faults[tasks[task]] = fault
    except TimeoutError:
        pass
    finally:
        for task in tasks:
            task.cancel()
        for source in sources.values():
            source.close()
        await asyncio.gather(*tasks, return_exceptions=True)
    raise Temporary("; ".join(f"{cloud}: {faults.get(cloud, f'no answer within {ROUND_S:g} s')}" for cloud in urls))


async def _is_it(cloud: str, source: NoticeSource) -> str:
    """Return nothing where the service has proven to be the cloud's, else why not.

    Google's answers carry a header of their own and Azure's document a vmId: their `identity` checks that. EC2's are plain words, which any
    server may answer to anything.
    """
    try:
        identity = await source.identity()
    except Temporary as error:
        return str(error)
    return "" if cloud != "aws" or _INSTANCE_ID.fullmatch(identity.instance_id) else "the instance id is not one of EC2's"


def _first_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(256).decode("ascii", errors="replace").strip()
    except OSError:
        return ""
