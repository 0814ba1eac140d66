"""The EC2 endpoint: one POST in, one XML answer out, with EC2's errors, throttling and idempotent client tokens."""

import asyncio
import hashlib
import json
import logging
import re
import secrets

from aiohttp import web

from holdfast_sandbox import ec2_instances, ec2_launch, ec2_market, ec2_spot
from holdfast_sandbox.datacenter import Datacenter
from holdfast_sandbox.ec2_account import Account, Call, Handler
from holdfast_sandbox.ec2_buckets import Buckets
from holdfast_sandbox.ec2_templates import Params
from holdfast_sandbox.ec2_wire import Ec2Error, Wire, error_xml, form_fields
from holdfast_sandbox.faults import ApiFault

HANDLERS: dict[str, Handler] = ec2_instances.HANDLERS | ec2_launch.HANDLERS | ec2_market.HANDLERS | ec2_spot.HANDLERS
_log = logging.getLogger(__name__)
_SCOPE = re.compile(r"Credential=[^/,]+/\d{8}/([a-z0-9-]+)/ec2/aws4_request")


class HungUpError(Exception):
    """The connection is to be dropped without an answer."""


class Ec2Endpoint:
    """Serves the query protocol for one account. Signatures are not verified, but must be there."""

    def __init__(self, datacenter: Datacenter) -> None:
        self._datacenter = datacenter
        self._account = Account(datacenter, Wire())
        sizes = datacenter.config.api_buckets
        self._buckets = None if sizes is None else Buckets(sizes)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        request_id = secrets.token_hex(16)
        if self._datacenter.config.api_latency_s:
            await asyncio.sleep(self._datacenter.config.api_latency_s)
        try:
            xml = await self._answer(form_fields(await request.read()), request.headers.get("Authorization", ""), request_id)
            status = 200
        except Ec2Error as error:
            xml, status = error_xml(error, request_id), error.status
        except (KeyError, TypeError, AssertionError):  # a defect of ours: to the caller, EC2's own way of saying so
            _log.exception("a defect in the simulated cloud")
            xml, status = error_xml(Ec2Error("InternalError", "An internal error has occurred"), request_id), 500
        except HungUpError:
            assert request.transport is not None
            request.transport.abort()
            return web.Response(status=500)
        return web.Response(text=xml, status=status, content_type="text/xml")

    async def _answer(self, fields: dict[str, str], authorization: str, request_id: str) -> str:
        scope = _SCOPE.search(authorization)
        if scope is None:
            raise Ec2Error("MissingParameter", "The request must contain the parameter AWSAccessKeyId")
        fault = self._datacenter.faults.api_fault(fields.get("Action", ""))
        if fault is not None:
            self._datacenter.record.write("api_fault", action=fields.get("Action", ""), mode=fault.mode, code=fault.code)
            if not fault.after:
                await suffer(fault)
        action, params = self._account.wire.parse(fields)
        if self._buckets is not None:
            self._draw(self._buckets, scope[1], action, params)
        result = self._perform(Call(self._account, action, scope[1], params, self._datacenter.now()))
        if fault is not None and fault.after:
            await suffer(fault)
        return self._account.wire.response(action, result, request_id)

    def _draw(self, buckets: Buckets, region: str, action: str, params: Params) -> None:
        try:
            buckets.draw(region, action, params, self._datacenter.now())
        except Ec2Error:
            self._datacenter.record.write("throttled", action=action, region=region)
            raise

    def _perform(self, call: Call) -> Params:
        regions = {zone.region for zone in self._datacenter.market.zones.values() if zone.provider == "aws"}
        if call.region not in regions:
            raise Ec2Error("OptInRequired", f"You are not subscribed to this service in {call.region}.")
        handler = HANDLERS.get(call.action)
        if handler is None:
            raise Ec2Error("InvalidAction", f"The action {call.action} is not valid for this simulated cloud.")
        if call.params.pop("DryRun", False):
            raise Ec2Error("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
        return self._once(call, handler)

    def _once(self, call: Call, handler: Handler) -> Params:
        """The same token with the same parameters gets the first answer again; what failed may be tried again."""
        token = call.params.get("ClientToken")
        if not token:
            return handler(call)
        if len(token) > 128 or not token.isascii():
            raise Ec2Error("InvalidParameterValue", "A client token has at most 128 ASCII characters.")
        key = (call.region, call.action, token)
        digest = hashlib.sha256(json.dumps(call.params, sort_keys=True, default=repr).encode()).hexdigest()
        if key in self._account.tokens:
            known, result = self._account.tokens[key]
            if known != digest:
                message = "Arguments on this idempotent request are inconsistent with arguments used in previous request(s)."
                raise Ec2Error("IdempotentParameterMismatch", message)
            return self._refreshed(call, result)
        result = handler(call)
        self._account.tokens[key] = (digest, result)
        return result

    def _refreshed(self, call: Call, result: Params) -> Params:
        """RunInstances repeated shows its instances as they are now."""
        if call.action != "RunInstances":
            return result
        machines = [self._datacenter.machines[instance["InstanceId"]] for instance in result["Instances"]]
        return result | {"Instances": [ec2_instances.instance_wire(call, machine) for machine in machines]}


async def suffer(fault: ApiFault) -> None:
    """Live through a fault: raises what the caller is to see; returns where the call was only slow."""
    if fault.mode in ("slow", "hang"):
        await asyncio.sleep(fault.seconds)
    if fault.mode == "hang":
        raise HungUpError
    if fault.mode == "500":
        raise Ec2Error("InternalError", "An internal error has occurred")
    if fault.mode == "error":
        raise Ec2Error(fault.code, f"{fault.code} on demand.")
