"""EC2's query protocol, driven by botocore's own model of it: form parameters in, XML out.

The rules (names, flattened lists, the shape of an error) are those of botocore's EC2Serializer and EC2QueryParser, read
from the other side.
"""

import base64
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from botocore.loaders import Loader
from botocore.model import OperationModel, OperationNotFoundError, ServiceModel, Shape
from botocore.utils import parse_timestamp

MAX_PARAMETERS = 20_000
MAX_DEPTH = 12
_NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")  # could not be sent back

# HTTP status by error code; what is not listed is a client error, 400. That capacity errors are *server* errors (500,
# which boto3 retries) is recorded from real EC2; the rest is EC2's documented table of error codes.
STATUS = {
    "InsufficientInstanceCapacity": 500,
    "InsufficientCapacity": 500,
    "InsufficientHostCapacity": 500,
    "InsufficientReservedInstanceCapacity": 500,
    "InternalError": 500,
    "InternalFailure": 500,
    "RequestLimitExceeded": 503,
    "Unavailable": 503,
    "ServiceUnavailable": 503,
    "UnauthorizedOperation": 403,
    "AuthFailure": 401,
    "OptInRequired": 403,
    "DryRunOperation": 412,
}


class Ec2Error(Exception):
    """An error as EC2 answers it: a code, a message, and the HTTP status that belongs to the code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = STATUS.get(code, 400)


class Wire:
    """Translates between HTTP bodies and Python dictionaries for every action in botocore's model of EC2."""

    def __init__(self) -> None:
        model = Loader().load_service_model("ec2", "service-2")
        self._service = ServiceModel(model, "ec2")
        self._xmlns = f"http://ec2.amazonaws.com/doc/{self._service.api_version}/"

    def operation(self, action: str) -> OperationModel:
        """The model of an action; raises Ec2Error InvalidAction for one that EC2 does not have."""
        try:
            return self._service.operation_model(action)
        except OperationNotFoundError:
            raise Ec2Error("InvalidAction", f"The action {action} is not valid for this web service.") from None

    def parse(self, form: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
        """An action and its parameters from form fields; raises Ec2Error for whatever EC2 would not take."""
        fields = dict(form)
        action = fields.pop("Action", "")
        if not action:
            raise Ec2Error("MissingAction", "The request is missing an action or a required parameter.")
        version = fields.pop("Version", "")
        operation = self.operation(action)
        if version != self._service.api_version:
            raise Ec2Error("NoSuchVersion", f"The requested version ({version}) does not exist.")
        shape = operation.input_shape
        params = _structure(shape, _tree(fields), "") if shape is not None else {}
        return action, params

    def response(self, action: str, result: Mapping[str, Any], request_id: str) -> str:
        """The XML of a successful answer; a result that the model does not know is our own defect (KeyError)."""
        shape = self.operation(action).output_shape
        body = "<return>true</return>" if shape is None else _members_xml(shape, result)
        return (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<{action}Response xmlns="{self._xmlns}">'
            f"<requestId>{request_id}</requestId>{body}</{action}Response>"
        )

    def members(self, shape_name: str) -> frozenset[str]:
        """The member names of a structure in the model (to copy what a request said into an answer)."""
        return frozenset(self._service.shape_for(shape_name).members)


def form_fields(body: bytes) -> dict[str, str]:
    """The fields of a form-encoded body; raises Ec2Error for one that is none, or has too many."""
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_PARAMETERS, errors="strict")
    except ValueError as error:
        raise Ec2Error("MalformedQueryString", f"The request body cannot be read: {error}") from None
    return dict(pairs)


def error_xml(error: Ec2Error, request_id: str) -> str:
    """The body of an error answer."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error>'
        f"<Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message>"
        f"</Error></Errors><RequestID>{request_id}</RequestID></Response>"
    )


def _tree(fields: Mapping[str, str]) -> dict[str, Any]:
    """{"A.1.B": "x"} as {"A": {"1": {"B": "x"}}}."""
    root: dict[str, Any] = {}
    for key, value in fields.items():
        parts = key.split(".")
        if len(parts) > MAX_DEPTH:
            raise Ec2Error("MalformedQueryString", f"The parameter {key[:100]} is nested too deeply.")
        node = root
        for part in parts[:-1]:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise Ec2Error("MalformedQueryString", f"The parameter {key[:100]} is given as a value and a structure.")
        if parts[-1] in node:
            raise Ec2Error("MalformedQueryString", f"The parameter {key[:100]} is given as a value and a structure.")
        node[parts[-1]] = value
    return root


def _query_name(shape: Shape, member: str) -> str:
    serialization = shape.serialization
    if "queryName" in serialization:
        return str(serialization["queryName"])
    name = str(serialization.get("name", member))
    return name[0].upper() + name[1:] if "name" in serialization else name


def _value(shape: Shape, node: Any, path: str) -> Any:
    if shape.type_name == "structure":
        return _structure(shape, node, path)
    if shape.type_name == "list":
        return _list(shape, node, path)
    if not isinstance(node, str):
        raise Ec2Error("InvalidParameterValue", f"The parameter {path} must be a single value.")
    return _scalar(shape.type_name, node, path)


def _structure(shape: Shape, node: Any, path: str) -> dict[str, Any]:
    if not isinstance(node, dict):
        raise Ec2Error("InvalidParameterValue", f"The parameter {path} must be a structure.")
    rest = dict(node)
    result: dict[str, Any] = {}
    for member, member_shape in shape.members.items():
        name = _query_name(member_shape, member)
        where = f"{path}.{name}" if path else name
        if name in rest:
            result[member] = _value(member_shape, rest.pop(name), where)
        elif member in shape.required_members:
            raise Ec2Error("MissingParameter", f"The request must contain the parameter {where}")
    if rest:
        unknown = sorted(rest)[0][:100]
        raise Ec2Error("UnknownParameter", f"The parameter {unknown} is not recognized")
    return result


def _list(shape: Shape, node: Any, path: str) -> list[Any]:
    if not isinstance(node, dict) or not all(key.isascii() and key.isdigit() for key in node):
        raise Ec2Error("InvalidParameterValue", f"The parameter {path} must be a list: {path}.1, {path}.2, ...")
    return [_value(shape.member, node[key], f"{path}.{key}") for key in sorted(node, key=int)]


def _scalar(kind: str, text: str, path: str) -> Any:
    try:
        if kind == "boolean":
            return {"true": True, "false": False}[text.lower()]
        if kind in ("integer", "long"):
            return int(text)
        if kind in ("float", "double"):
            return float(text)
        if kind == "timestamp":
            return parse_timestamp(text).timestamp()
        if kind == "blob":
            return base64.b64decode(text, validate=True)
    except (KeyError, ValueError, OverflowError):
        message = f"Invalid value '{text[:100]}' for {path}. It must be a {kind}."
        raise Ec2Error("InvalidParameterValue", message) from None
    if _NOT_XML.search(text):
        raise Ec2Error("InvalidParameterValue", f"The value of {path} contains invalid characters.")
    return text


def timestamp_text(unix_s: float) -> str:
    """A time as EC2 writes it, with milliseconds."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _members_xml(shape: Shape, value: Mapping[str, Any]) -> str:
    unknown = value.keys() - shape.members.keys()
    if unknown:
        raise KeyError(f"{shape.name} has no member {sorted(unknown)}")
    parts = []
    for member, member_shape in shape.members.items():
        content = value.get(member)
        if content is not None:
            name = member_shape.serialization.get("name", member)
            parts.append(f"<{name}>{_xml(member_shape, content)}</{name}>")
    return "".join(parts)


def _xml(shape: Shape, value: Any) -> str:
    kind = shape.type_name
    if kind == "structure":
        return _members_xml(shape, value)
    if kind == "list":
        item = shape.member.serialization.get("name", "item")
        return "".join(f"<{item}>{_xml(shape.member, element)}</{item}>" for element in value)
    if kind == "boolean":
        return "true" if value else "false"
    if kind == "timestamp":
        return timestamp_text(value)
    if kind == "blob":
        return base64.b64encode(value).decode()
    return escape(str(value))
