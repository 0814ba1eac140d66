"""The HTTP side of the object store: faults, errors, a record of calls, and the control API below `/_sandbox/`."""

import logging
import secrets
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from holdfast_sandbox.objects.calls import Call, call_of
from holdfast_sandbox.objects.errors import HungUpError, StoreError
from holdfast_sandbox.objects.faults import Fault, Faults, Limit, suffer
from holdfast_sandbox.objects.service import Service

REMEMBERED_CALLS = 10_000
_log = logging.getLogger(__name__)


class Endpoint:
    """Answers every request."""

    def __init__(self, service: Service, faults: Faults) -> None:
        self._service = service
        self._faults = faults
        self._calls: deque[dict[str, Any]] = deque(maxlen=REMEMBERED_CALLS)
        self._counts: Counter[str] = Counter()

    def routes(self) -> list[web.RouteDef]:
        """The control API first: no bucket's name begins with an underscore."""
        return [
            web.get("/_sandbox/calls", self._get_calls),
            web.post("/_sandbox/faults", self._posted(Fault, self._faults.add)),
            web.post("/_sandbox/limit", self._posted(Limit, self._limit)),
            web.post("/_sandbox/clear", self._clear),
            web.route("*", "/{path:.*}", self.handle),
        ]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request of S3's or Cloud Storage's."""
        request_id = secrets.token_hex(8).upper()
        said: dict[str, Any] = {"action": None, "key": request.path, "range": request.headers.get("Range")}
        try:
            call = call_of(request)
            said |= {"action": call.action, "key": call.key}
            response = await self._answer(call)
        except StoreError as error:
            body = b"" if error.status == 304 else error.xml(request.path, request_id).encode()
            response = web.Response(body=body, status=error.status, content_type="application/xml")
            said["code"] = error.code
        except (HungUpError, ConnectionError):
            self._note(said | {"status": None})
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)
        self._note(said | {"status": response.status})
        if not response.prepared:
            response.headers["x-amz-request-id"] = request_id
        return response

    async def _answer(self, call: Call) -> web.StreamResponse:
        fault = self._faults.struck(call.action, call.key)
        await suffer(fault, after=False)
        response = await self._service.act(call.action)(call, fault)
        await suffer(fault, after=True)
        return response

    def _note(self, said: dict[str, Any]) -> None:
        self._calls.append(said)
        self._counts[f"{said['action']} {said.get('code') or said['status']}"] += 1

    async def _get_calls(self, request: web.Request) -> web.Response:
        return web.json_response({"calls": list(self._calls), "counts": self._counts, "bytes_in": self._service.bytes_in})

    def _limit(self, wanted: Limit) -> None:
        self._faults.limits.bytes_per_s = wanted.bytes_per_s

    async def _clear(self, request: web.Request) -> web.Response:
        self._faults.clear()
        self._calls.clear()
        self._counts.clear()
        self._service.bytes_in.clear()
        return web.json_response({})

    @staticmethod
    def _posted(model: type[Any], act: Callable[[Any], None]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                act(model.model_validate_json(await request.text()))
            except ValidationError as error:
                return web.json_response({"error": str(error)}, status=400)
            return web.json_response({})

        return handle
