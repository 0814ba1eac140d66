"""Dashboards and provisioning by the JSON schemas of Grafana's published types (schemas/README.md). No Grafana runs here."""

import json
from itertools import combinations
from typing import Any

import jsonschema
import provisioning_shapes
import pytest
from holdfast_monitoring.grafana_alerts import DATASOURCE
from pydantic import BaseModel
from source_files import ALERTS, DASHBOARDS, SCHEMAS, panels, read_yaml

PROVISIONED = read_yaml("grafana/provisioning/alerting/holdfast.yaml")
RULES: list[dict[str, Any]] = [rule for group in PROVISIONED["groups"] for rule in group["rules"]]


def check(schema: str, value: Any) -> None:
    jsonschema.validate(value, json.loads((SCHEMAS / f"{schema}.json").read_text()), cls=jsonschema.Draft7Validator)


@pytest.mark.parametrize("name", DASHBOARDS)
@pytest.mark.parametrize("schema", ["dashboard", "dashboard-13"])
def test_dashboards_are_of_grafanas_type(name: str, schema: str) -> None:
    check(schema, DASHBOARDS[name])


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_are_of_their_plugins_types(name: str) -> None:
    for panel in panels(DASHBOARDS[name]):
        check(f"{panel['type']}-options", panel["options"])
        if panel["type"] in {"timeseries", "table"}:
            check(f"{panel['type']}-field", panel["fieldConfig"]["defaults"].get("custom", {}))
        for target in panel["targets"]:
            check("prometheus-query", target)


def test_the_schemas_find_what_is_wrong() -> None:
    broken = json.loads(json.dumps(DASHBOARDS["gpu"]))
    broken["panels"][1]["fieldConfig"]["defaults"]["min"] = "0"
    with pytest.raises(jsonschema.ValidationError):
        check("dashboard", broken)
    with pytest.raises(jsonschema.ValidationError):
        check("stat-options", {**panels(DASHBOARDS["fleet"])[0]["options"], "graphMode": "bars"})
    with pytest.raises(jsonschema.ValidationError):
        check("prometheus-query", {"expr": "up", "refId": "A", "legend": "wrong key"})


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_do_not_overlap_and_stay_on_the_grid(name: str) -> None:
    places = [panel["gridPos"] for panel in DASHBOARDS[name]["panels"]]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 and place["h"] > 0 for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_tell_what_they_show(name: str) -> None:
    dashboard = DASHBOARDS[name]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert dashboard["templating"]["list"][0]["type"] == "datasource"
    for panel in panels(dashboard):
        assert all((panel["title"], panel["description"], panel["fieldConfig"]["defaults"]["unit"]))
        assert panel["datasource"]["uid"] == "$datasource"
        if panel["type"] == "timeseries" and len(panel["targets"]) > 1:
            assert all(target["legendFormat"] != "__auto" for target in panel["targets"])


def test_uids_of_dashboards_are_unique() -> None:
    assert len({dashboard["uid"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS)


def test_alert_rules_are_of_grafanas_type() -> None:
    """The type is the HTTP API's, whose rules name their group and folder; in the file the group does."""
    assert [rule["title"] for rule in RULES] == [alert.name for alert in ALERTS]
    for group in PROVISIONED["groups"]:
        for rule in group["rules"]:
            check("alert-rule", {**rule, "orgID": group["orgId"], "folderUID": group["folder"], "ruleGroup": group["name"]})
            query, threshold = rule["data"]
            check("prometheus-query", query["model"])
            check("threshold-query", threshold["model"])
            assert (rule["condition"], threshold["model"]["expression"]) == (threshold["refId"], query["refId"])
            assert rule["noDataState"] == "OK", "an expression without series means that nothing is wrong"


def test_the_data_source_is_the_one_that_alerts_name() -> None:
    provisioned = read_yaml("grafana/provisioning/datasources/holdfast.yaml")
    assert provisioned["apiVersion"] == 1
    assert {source["uid"] for source in provisioned["datasources"]} == {DATASOURCE}
    assert {rule["data"][0]["datasourceUid"] for rule in RULES} == {DATASOURCE}


def test_contact_points_and_policies() -> None:
    example = read_yaml("grafana/provisioning/alerting/contact-points.yaml.example")
    names = set()
    for point in example["contactPoints"]:
        names.add(point["name"])
        for receiver in point["receivers"]:
            check("contact-point", receiver)
    for policy in example["policies"]:
        check("notification-policy", {key: value for key, value in policy.items() if key != "orgId"})
        assert {policy["receiver"], *(route["receiver"] for route in policy["routes"])} <= names


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("alerting/holdfast.yaml", provisioning_shapes.Alerting),
        ("alerting/contact-points.yaml.example", provisioning_shapes.Alerting),
        ("datasources/holdfast.yaml", provisioning_shapes.Datasources),
        ("dashboards/holdfast.yaml", provisioning_shapes.Dashboards),
    ],
)
def test_provisioning_files_have_the_documented_shape(path: str, shape: type[BaseModel]) -> None:
    shape.model_validate(read_yaml(f"grafana/provisioning/{path}"))
