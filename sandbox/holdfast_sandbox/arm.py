"""The Azure Resource Manager endpoint: `/subscriptions/...` for Microsoft.Compute, and the network interfaces that come with machines.

Subscriptions and resource groups are there once they are named. Tokens are not verified, but one must be there. Faults are ordered by the
names that the REST API gives its operations (`VirtualMachineScaleSets_CreateOrUpdate`).
"""

import asyncio
import json
import logging
import re
import secrets

from aiohttp import web

from holdfast_sandbox import arm_machines, arm_market, arm_sets
from holdfast_sandbox.arm_account import Account, Call, Handler
from holdfast_sandbox.arm_wire import ArmError, Reply, parsed_body
from holdfast_sandbox.datacenter import Datacenter
from holdfast_sandbox.faults import ApiFault

OPERATIONS: dict[str, tuple[str, str, Handler]] = arm_machines.OPERATIONS | arm_sets.OPERATIONS | arm_market.OPERATIONS
_WORD = r"[^/]{1,128}"
_PLACES = {
    "{sub}": rf"/subscriptions/(?P<subscription>{_WORD})",
    "{group}": rf"/subscriptions/(?P<subscription>{_WORD})/resourceGroups/(?P<group>{_WORD})",
    "{name}": rf"(?P<name>{_WORD})",
    "{location}": rf"(?P<location>{_WORD})",
    "{operation}": rf"(?P<operation>{_WORD})",
}
_BODIES = frozenset({"PUT", "PATCH", "POST"})
_OURS = {"RequestLimitExceeded": "TooManyRequests", "InternalError": "InternalServerError"}
"""What the control API calls by EC2's names unless it is told otherwise."""
_log = logging.getLogger(__name__)


def _pattern(path: str) -> re.Pattern[str]:
    for name, pattern in _PLACES.items():
        path = path.replace(name, pattern)
    return re.compile(path, re.IGNORECASE)


_ROUTES = [(action, method, _pattern(path), handler) for action, (method, path, handler) in OPERATIONS.items()]


class HungUpError(Exception):
    """The connection is to be dropped without an answer."""


class ArmEndpoint:
    """Serves all subscriptions."""

    def __init__(self, datacenter: Datacenter) -> None:
        self._datacenter = datacenter
        self._account = Account(datacenter)

    def routes(self) -> list[web.RouteDef]:
        """The routes of the endpoint."""
        return [web.route("*", "/subscriptions/{path:.*}", self.handle)]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        if self._datacenter.config.api_latency_s:
            await asyncio.sleep(self._datacenter.config.api_latency_s)
        try:
            reply = await self._answer(request)
        except ArmError as error:
            headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
            reply = Reply(error.body(), error.status, headers)
        except (KeyError, TypeError, AttributeError, AssertionError):  # a defect of ours: to the caller, ARM's own way of saying so
            _log.exception("a defect in the simulated cloud")
            reply = Reply(ArmError("InternalServerError", "Encountered internal server error.").body(), 500)
        except HungUpError:
            assert request.transport is not None
            request.transport.abort()
            return web.Response(status=500)
        headers = {**reply.headers, "x-ms-request-id": secrets.token_hex(16)}
        if reply.body is None:
            return web.Response(status=reply.status, headers=headers)
        return web.Response(text=json.dumps(reply.body), status=reply.status, headers=headers, content_type="application/json")

    async def _answer(self, request: web.Request) -> Reply:
        if not re.fullmatch(r"Bearer \S+", request.headers.get("Authorization", "")):
            raise ArmError("AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing.")
        action, handler, names = _route(request.method, request.path)
        fault = self._datacenter.faults.api_fault(action)
        if fault is not None:
            self._datacenter.record.write("api_fault", action=action, mode=fault.mode, code=fault.code)
            if not fault.after:
                await _suffer(fault)
        if "api-version" not in request.query:
            raise ArmError("MissingApiVersionParameter", "The api-version query parameter (?api-version=) is required for all requests.")
        content = await request.read() if request.method in _BODIES else b""
        self._account.settle()
        call = Call(
            account=self._account,
            action=action,
            names=names,
            query=dict(request.query),
            headers={name.lower(): value for name, value in request.headers.items()},
            body=parsed_body(content) if content else {},
            origin=str(request.url.origin()),
            path=request.path,
            now=self._datacenter.now(),
        )
        reply = handler(call)
        if fault is not None and fault.after:
            await _suffer(fault)
        return reply


def _route(method: str, path: str) -> tuple[str, Handler, dict[str, str]]:
    for action, wanted, pattern, handler in _ROUTES:
        match = pattern.fullmatch(path)
        if match and method == wanted:
            return action, handler, match.groupdict()
    raise ArmError("InvalidResourceType", f"This simulated cloud does not have {method} {path[:200]}.")


async def _suffer(fault: ApiFault) -> None:
    """Live through a fault: raises what the caller is to see; returns where the call was only slow."""
    if fault.mode in ("slow", "hang"):
        await asyncio.sleep(fault.seconds)
    if fault.mode == "hang":
        raise HungUpError
    if fault.mode == "500":
        raise ArmError("InternalServerError", "Encountered internal server error.")
    if fault.mode == "error":
        raise ArmError(_OURS.get(fault.code, fault.code), f"{fault.code} on demand.")
