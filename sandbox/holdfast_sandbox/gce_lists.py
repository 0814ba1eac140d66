"""What lists have in common: filters, pages, and scopes."""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence

from holdfast_sandbox.gce_wire import GceError, Json, count

PAGE_MAX = 500
_TERM = re.compile(r'\(?\s*([A-Za-z][A-Za-z0-9_.-]*)\s*(=|!=)\s*(?:"([^"\\]*)"|([^\s()"]+))\s*\)?')


def matches(resource: Json, expression: str) -> bool:
    """Whether a resource passes a filter: terms `field = "value"` or `!=`, joined by AND. Raises GceError for any other."""
    terms = re.split(r"\s+AND\s+", expression.strip()) if expression.strip() else []
    for term in terms:
        found = _TERM.fullmatch(term)
        if found is None:
            raise GceError("invalid", f"Invalid value for field 'filter': '{expression[:200]}'. This cloud knows = and != joined by AND.")
        wanted = found[3] if found[3] is not None else found[4]
        if (_field(resource, found[1]) == wanted) != (found[2] == "="):
            return False
    return True


def _field(resource: Json, path: str) -> str | None:
    value: object = resource
    for name in path.split(".", 1) if path.startswith("labels.") else path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return str(value).lower() if isinstance(value, bool) else None if value is None else str(value)


def page(resources: Iterable[tuple[str, Json]], query: Mapping[str, str]) -> tuple[list[tuple[str, Json]], str]:
    """One page of keyed resources in their order, and the token of the next one.

    The token says after which key to go on, so that what comes or goes between two pages disturbs nothing.
    """
    size = min(count(dict(query), "maxResults", PAGE_MAX) or PAGE_MAX, PAGE_MAX)
    after = _after(query.get("pageToken", ""))
    passed = [(key, said) for key, said in resources if matches(said, query.get("filter", ""))]
    rest = sorted(((key, said) for key, said in passed if after is None or key > after), key=lambda each: each[0])
    token = base64.urlsafe_b64encode(f"after:{rest[size - 1][0]}".encode()).decode() if len(rest) > size else ""
    return rest[:size], token


def _after(token: str) -> str | None:
    if not token:
        return None
    try:
        plain = base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        plain = ""
    if not plain.startswith("after:"):
        raise GceError("invalid", "Invalid value for field 'pageToken'.")
    return plain.removeprefix("after:")


def plain_list(kind: str, resources: Iterable[tuple[str, Json]], query: Mapping[str, str]) -> Json:
    """The list of one zone or region."""
    found, token = page(resources, query)
    return {"kind": f"compute#{kind}List", "items": [said for _, said in found]} | ({"nextPageToken": token} if token else {})


def aggregated(kind: str, key: str, scopes: Sequence[str], resources: Iterable[tuple[str, str, Json]], query: Mapping[str, str]) -> Json:
    """The list of all scopes. `resources` are (scope, key, resource); a scope that has none on this page says so in a warning."""
    resources = list(resources)
    where = {f"{scope}/{name}": scope for scope, name, _ in resources}
    found, token = page(((f"{scope}/{name}", said) for scope, name, said in resources), query)
    empty = {"code": "NO_RESULTS_ON_PAGE", "message": "There are no results for this scope on this page."}
    items: Json = {scope: {"warning": empty} for scope in scopes}
    for name, said in found:
        items[where[name]] = {key: [*items[where[name]].get(key, []), said]}
    return {"kind": f"compute#{kind}AggregatedList", "items": items} | ({"nextPageToken": token} if token else {})
