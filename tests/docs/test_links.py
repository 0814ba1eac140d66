"""Links between the project's pages lead somewhere, headings included."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from doc_pages import PAGES, ROOT

FENCED = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
LINKS = [
    (page, target)
    for page in (*PAGES, *sorted((ROOT / "examples").glob("**/README.md")))
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", page.read_text()))
]


def anchors(page: Path) -> set[str]:
    """The names that headings get: lower case, no punctuation, spaces as hyphens."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(("page", "target"), LINKS, ids=[f"{page.name}-{target}" for page, target in LINKS])
def test_a_link_leads_somewhere(page: Path, target: str) -> None:
    if target.startswith("https://"):
        assert "localhost" not in target
        return
    path, _, anchor = target.partition("#")
    found = (page.parent / path).resolve() if path else page
    assert found.is_relative_to(ROOT), "it leads out of the repository"
    assert found.exists()
    if anchor:
        assert anchor in anchors(found)


def test_the_readme_leads_to_every_page() -> None:
    linked = {(page.parent / target.partition("#")[0]).resolve() for page, target in LINKS if page.name == "README.md"}
    missing = {page.name for page in PAGES} - {path.name for path in linked} - {"README.md", "design-notes.md"}
    assert missing == set()


def test_the_picture_is_a_drawing_of_a_whole_run() -> None:
    picture = ROOT / "docs" / "images" / "demo-timeline.svg"
    assert f"({picture.relative_to(ROOT)})" in (ROOT / "README.md").read_text()
    root = ElementTree.parse(picture).getroot()  # our own file
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    words = " ".join("".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text"))
    assert {"single", "pair", "spot-1"} <= set(words.split())
    assert list(root.iter("{http://www.w3.org/2000/svg}script")) == []
