"""The shape of Grafana's provisioning files, as its documentation tells it; no package of Grafana's has a type for them.

grafana.com/docs/grafana/latest/alerting/set-up/provision-alerting-resources/file-provisioning and
grafana.com/docs/grafana/latest/administration/provisioning
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)


Uid = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,40}$")]
Duration = Annotated[str, Field(pattern=r"^\d+[smhd]$")]


class Range(_Shape):
    from_: Annotated[int, Field(alias="from")]
    to: int


class Query(_Shape):
    ref_id: str
    relative_time_range: Range
    datasource_uid: str
    model: dict[str, Any]


class Rule(_Shape):
    uid: Uid
    title: Annotated[str, Field(max_length=190)]
    condition: str
    data: list[Query]
    no_data_state: Literal["OK", "NoData", "Alerting"]
    exec_err_state: Literal["OK", "Error", "Alerting"]
    for_: Annotated[Duration, Field(alias="for")]
    labels: dict[str, str]
    annotations: dict[str, str]


class Group(_Shape):
    org_id: int
    name: str
    folder: str
    interval: Annotated[str, Field(pattern=r"^\d*0s$")]
    """Grafana evaluates at multiples of ten seconds."""
    rules: list[Rule]


class Receiver(_Shape):
    uid: Uid
    type: str
    settings: dict[str, Any]
    disable_resolve_message: bool = False


class ContactPoint(_Shape):
    org_id: int
    name: str
    receivers: list[Receiver]


class Alerting(_Shape):
    api_version: Literal[1]
    groups: list[Group] = []
    contact_points: list[ContactPoint] = []
    policies: list[dict[str, Any]] = []


class Datasource(_Shape):
    name: str
    uid: Uid
    type: Literal["prometheus"]
    access: Literal["proxy", "direct"]
    url: str
    json_data: dict[str, Any]


class Datasources(_Shape):
    api_version: Literal[1]
    datasources: list[Datasource]


class Provider(_Shape):
    name: str
    org_id: int
    folder: str
    type: Literal["file"]
    disable_deletion: bool
    allow_ui_updates: bool
    update_interval_seconds: int
    options: dict[str, str]


class Dashboards(_Shape):
    api_version: Literal[1]
    providers: list[Provider]
