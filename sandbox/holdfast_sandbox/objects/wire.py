"""S3's XML: answers from plain data, and the two kinds of bodies that carry a list."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Union
from xml.etree import ElementTree

from holdfast_sandbox.objects.errors import StoreError

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
BODY_BYTES_MAX = 2 * 1024 * 1024
Content = Union[str, int, None, Mapping[str, "Content"], Sequence["Content"]]  # noqa: UP007 - it is recursive


def document(root: str, content: Mapping[str, Content]) -> bytes:
    """An answer's body: keys are elements, lists repeat them, None leaves them out."""
    top = ElementTree.Element(root, xmlns=NAMESPACE)
    _fill(top, content)
    return bytes(ElementTree.tostring(top, encoding="UTF-8", xml_declaration=True))


def _fill(parent: ElementTree.Element, content: Mapping[str, Content]) -> None:
    for name, value in content.items():
        values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        for each in values:
            if each is None:
                continue
            element = ElementTree.SubElement(parent, name)
            if isinstance(each, Mapping):
                _fill(element, each)
            else:
                element.text = str(each)


def entries(body: bytes, root: str, name: str) -> list[dict[str, str]]:
    """The elements `name` of a request's body as their children's texts. Raises StoreError MalformedXML."""
    try:
        top = ElementTree.fromstring(body)  # noqa: S314 - bounded, and expat refuses what grows
    except ElementTree.ParseError as fault:
        raise StoreError("MalformedXML", f"The XML you provided was not well-formed: {fault}") from None
    if _plain(top.tag) != root:
        raise StoreError("MalformedXML", f"The XML you provided is no {root}.")
    return [{_plain(child.tag): child.text or "" for child in each} for each in top if _plain(each.tag) == name]


def _plain(tag: str) -> str:
    return tag.rpartition("}")[2]


def iso(moment: float) -> str:
    """A time as XML carries it."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def http_date(moment: float) -> str:
    """A time as headers carry it."""
    return formatdate(moment, usegmt=True)


def number(query: Mapping[str, str], name: str, default: int, most: int) -> int:
    """A whole number from a query, at most `most`. Raises StoreError InvalidArgument."""
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdigit()):
        raise StoreError("InvalidArgument", f"{name} is not a whole number")
    return min(int(text), most)
