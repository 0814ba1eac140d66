"""The calls that we make, by name: what goes into each and what is kept of its answer. Every one raises ProviderError.

Nothing here waits for what a call set going: the SDK's pollers (`polling=False`) would hold a thread for minutes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast_controller.providers.azure_calls import ArmCalls, Clients, Json, sent
from holdfast_controller.providers.azure_config import AzureConfig
from holdfast_controller.providers.azure_errors import ABSENT
from holdfast_controller.providers.base import ProviderError

BATCH_MAX = 100
"""Machines of one set that are deleted in one call."""
COMPUTE_API, SIZES_API, NETWORK_API, SCORES_API = "2026-04-01", "2021-07-01", "2026-03-01", "2025-06-05"
"""Versions, as azure-mgmt-compute 39 and azure-mgmt-network 33 ask for them, and "Spot Placement Score"."""
GONE_STATUS = 204
"""Azure's answer to the deletion of what is not there."""


class Resources:
    """Scale sets and machines of one resource group, and what the subscription knows besides."""

    def __init__(self, calls: ArmCalls, config: AzureConfig) -> None:
        self._calls = calls
        self._group = config.resource_group
        self._here = f"/subscriptions/{config.subscription}"
        self._compute = f"{self._here}/resourceGroups/{config.resource_group}/providers/Microsoft.Compute"
        self._network = f"{self._here}/resourceGroups/{config.resource_group}/providers/Microsoft.Network"

    def close(self) -> None:
        """Make no further call."""
        self._calls.close()

    async def create_set(self, name: str, body: Mapping[str, Any]) -> str:
        """Ask for a scale set that is not there yet; returns the address of the operation, empty where the answer names none.

        Raises a fault of code EXISTS where there is one.
        """

        def work(clients: Clients) -> str:
            from azure.core import MatchConditions

            poller = clients.compute.virtual_machine_scale_sets.begin_create_or_update(
                self._group, name, dict(body), match_condition=MatchConditions.IfMissing, polling=False, cls=_headers
            )
            return str(poller.result().get("Azure-AsyncOperation", ""))

        return await self._calls.call("creating a scale set", work)

    async def get_set(self, name: str) -> Json | None:
        """Return a scale set; None where there is none."""
        return await self._one("getting a scale set", f"virtualMachineScaleSets/{name}")

    async def sets(self) -> list[Json]:
        """Return all scale sets of the resource group."""
        return await self._list("listing scale sets", f"{self._compute}/virtualMachineScaleSets")

    async def delete_set(self, name: str) -> None:
        """Ask for the deletion of a set with all its machines."""

        def work(clients: Clients) -> None:
            clients.compute.virtual_machine_scale_sets.begin_delete(self._group, name, polling=False)

        await self._calls.call("deleting a scale set", work)

    async def operation(self, address: str) -> Json:
        """Return how an operation stands."""
        return await self._calls.get("asking for an operation", address)

    async def machines(self) -> list[Json]:
        """Return all machines of the resource group."""
        return await self._list("listing machines", f"{self._compute}/virtualMachines")

    async def machines_of(self, name: str) -> list[Json]:
        """Return the machines of a set, with their run-time states; none where there is no such set."""
        wanted = f"'virtualMachineScaleSet/id' eq '{self._compute}/virtualMachineScaleSets/{name}'"
        parameters = {"api-version": COMPUTE_API, "$filter": wanted, "$expand": "instanceView"}
        try:
            return await self._calls.pages("listing a set's machines", f"{self._compute}/virtualMachines", **parameters)
        except ProviderError as error:
            if error.fault.code in ABSENT:
                return []
            raise

    async def states(self) -> list[Json]:
        """Return the run-time states of all machines of the subscription: no other listing has them for machines of several sets."""
        path = f"{self._here}/providers/Microsoft.Compute/virtualMachines"
        return await self._calls.pages("listing states", path, **{"api-version": COMPUTE_API, "statusOnly": "true"})

    async def machine(self, name: str) -> Json | None:
        """Return a machine; None where Azure, asked for it by name, says that there is none."""
        return await self._one("getting a machine", f"virtualMachines/{name}")

    async def delete_machines(self, name: str, machines: Sequence[str]) -> None:
        """Ask for the deletion of machines of one set."""

        def work(clients: Clients) -> None:
            wanted = {"instanceIds": list(machines)}
            clients.compute.virtual_machine_scale_sets.begin_delete_instances(self._group, name, wanted, polling=False)

        await self._calls.call("deleting a set's machines", work)

    async def delete_machine(self, name: str) -> bool:
        """Ask for the deletion of a machine; returns whether there was none."""

        def work(clients: Clients) -> bool:
            poller = clients.compute.virtual_machines.begin_delete(self._group, name, polling=False, cls=_status)
            return bool(poller.result() == GONE_STATUS)

        try:
            return await self._calls.call("deleting a machine", work)
        except ProviderError as error:
            if error.fault.code in ABSENT:
                return True
            raise

    async def cards(self) -> list[Json]:
        """Return the network interfaces of the resource group: machines themselves do not tell their addresses."""
        return await self._list("listing network interfaces", f"{self._network}/networkInterfaces", NETWORK_API)

    async def sizes(self, region: str) -> list[Json]:
        """Return the sizes that the subscription has in a region."""
        parameters = {"api-version": SIZES_API, "$filter": f"location eq '{region}'"}
        return await self._calls.pages("listing sizes", f"{self._here}/providers/Microsoft.Compute/skus", **parameters)

    async def scores(self, region: str, body: Mapping[str, Any]) -> Json:
        """Return placement scores. Their package is a beta; the call is the plain one, through the pipeline of the client that we have."""
        path = f"{{endpoint}}{self._here}/providers/Microsoft.Compute/locations/{region}/placementScores/spot/generate"

        def work(clients: Clients) -> Json:
            return sent(clients, "POST", path, {"api-version": SCORES_API}, dict(body))

        return await self._calls.call("asking for placement scores", work)

    async def _list(self, what: str, path: str, version: str = COMPUTE_API) -> list[Json]:
        return await self._calls.pages(what, path, **{"api-version": version})

    async def _one(self, what: str, path: str) -> Json | None:
        try:
            return await self._calls.get(what, f"{{endpoint}}{self._compute}/{path}", **{"api-version": COMPUTE_API})
        except ProviderError as error:
            if error.fault.code in ABSENT:
                return None
            raise


def _headers(response: Any, *_: Any) -> Mapping[str, str]:
    headers: Mapping[str, str] = response.http_response.headers
    return headers


def _status(response: Any, *_: Any) -> int:
    return int(response.http_response.status_code)
