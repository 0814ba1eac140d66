"""docs/monitoring.md says what is so."""

import re

from feeder import NODES, agent
from holdfast_common.metrics import METRICS
from holdfast_monitoring.documentation import shown
from holdfast_nodeagent.exporter import families
from source_files import DASHBOARDS, ROOT, queries

PAGE = (ROOT / "docs" / "monitoring.md").read_text()


def test_every_metric_has_its_row() -> None:
    rows = re.findall(r"^\| `(holdfast_\w+)` \| (gauge|counter|histogram) \|", PAGE, re.MULTILINE)
    assert sorted(rows) == sorted((shown(metric), metric.kind) for metric in METRICS.values())


def test_every_metric_is_used_by_a_query_or_explained_as_information() -> None:
    asked = " ".join(queries().values())
    unused = {name for name, metric in METRICS.items() if not re.search(rf"\b{name}(_total|_bucket)?\b", asked)}
    assert unused == set()


def test_dashboards_have_their_rows() -> None:
    for dashboard in DASHBOARDS.values():
        assert f"| {dashboard['title']} |" in PAGE


def test_a_gpu_has_as_many_series_as_the_page_says() -> None:
    samples = [sample for family in families(agent(NODES[0], 0.0, 60.0), True) for sample in family.samples]
    idle = [sample for sample in samples if sample.labels.get("gpu") == "1"]
    assert 60 <= len(idle) <= 80
    assert 20 <= len([sample for sample in samples if "uuid" not in sample.labels]) <= 30


def test_files_that_the_page_lists_exist() -> None:
    listed = re.findall(r"^\| `([\w./*-]+)` \|", PAGE.partition("## Installation")[0], re.MULTILINE)
    assert len(listed) == 7
    assert all(list((ROOT / "monitoring").glob(path.rstrip("/"))) for path in listed)
