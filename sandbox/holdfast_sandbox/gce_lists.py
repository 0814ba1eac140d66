"""What lists have in common: filters, pages, and scopes."""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence

from holdfast_sandbox.gce_wire import GceError, Json, count

PAGE_MAX = 500
_TERM = re.compile(r'\(?\s*([A-Za-z][A-Za-z0-9_.-]*)\s*(=|!=)\s*(?:"([^"\\]*)"|([^\s()"]+))\s*\)?')


def terms(expression: str) -> list[tuple[str, str, bool]]:
    """The terms of a filter, `field = "value"` or `!=` joined by AND, as field, value and whether they are to be equal.

    Raises GceError for any other.
    """
    found = []
    for term in re.split(r"\s+AND\s+", expression.strip()) if expression.strip() else []:
        said = _TERM.fullmatch(term)
        if said is None:
            raise GceError("invalid", f"Invalid value for field 'filter': '{expression[:200]}'. This cloud knows = and != joined by AND.")
        found.append((said[1], said[3] if said[3] is not None else said[4], said[2] == "="))
    return found


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
    wanted = terms(query.get("filter", ""))
    passed = [(key, said) for key, said in resources if all((_field(said, path) == value) == same for path, value, same in wanted)]
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
