from pathlib import Path

import pytest
from holdfast_common.errors import ConfigError
from holdfast_controller.config import load_config
from holdfast_controller.config_clouds import azure_config, gcp_config
from holdfast_controller.planning import Bounds

FULL = """
cluster = "lab-1"
state_dir = "/var/lib/holdfast"
policy = "/etc/holdfast/policy.toml"

[slurm]
conf = "/etc/slurm/slurm.conf"
bin_dir = "/opt/slurm/bin"
timeout_s = 5
user = "slurmuser"

[listen]
socket = "/run/holdfast/c.sock"
group = "admins"
tcp = "10.0.0.1:7421"
allow_remote_without_tls = true

[auth]
munge_socket = "/run/munge/other"

[timing]
watch_idle_s = 3
watch_busy_s = 0.2
cloud_poll_s = 11
cloud_poll_busy_s = 3
agent_heartbeat_s = 4
agent_lost_s = 16

[providers.aws]
endpoint_url = "http://127.0.0.1:5000"
regions = ["us-east-1", "us-west-2"]
subnets = {us-east-1a = "subnet-1"}
template = "gpu:3"
images = {us-west-2 = "ami-1"}
security_groups = ["sg-1", "sg-2"]
on_demand_usd_h = {"p5.48xlarge" = 98.32, "us-west-2/p5.48xlarge" = 99}
max_in_flight = 4
call_timeout_s = 15
"""
SHORT = 'cluster = "c"\nstate_dir = "/s"\npolicy = "/p"\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "controller.toml"


def faults(path: Path, text: str) -> list[str]:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert caught.value.where == str(path)
    return caught.value.faults


def test_a_short_file_has_the_documented_defaults(path: Path) -> None:
    path.write_text(SHORT)
    config = load_config(path)
    assert (config.slurm.conf, config.slurm.bin_dir, config.slurm.timeout_s, config.slurm.user) == (
        "/etc/slurm/slurm.conf",
        "/usr/bin",
        10.0,
        "slurm",
    )
    assert (config.listen.socket, config.listen.group, config.listen.tcp) == ("/run/holdfast/controller.sock", "", "127.0.0.1:7420")
    assert not config.listen.allow_remote_without_tls
    assert config.auth.munge_socket == "/run/munge/munge.socket.2"
    assert list(config.timing.model_dump().values()) == [2.0, 0.1, 10.0, 2.0, 5.0, 20.0]
    assert config.providers.aws is None


def test_a_full_file_is_read_and_tells_the_aws_provider_all(path: Path) -> None:
    path.write_text(FULL)
    config = load_config(path)
    assert (config.cluster, config.listen.tcp, config.slurm.user) == ("lab-1", "10.0.0.1:7421", "slurmuser")
    assert config.providers.aws is not None
    aws = config.providers.aws.with_cluster(config.cluster)
    assert (aws.cluster, aws.regions, aws.endpoint_url) == ("lab-1", ("us-east-1", "us-west-2"), "http://127.0.0.1:5000")
    assert aws.security_groups == {"us-east-1": ("sg-1", "sg-2"), "us-west-2": ("sg-1", "sg-2")}
    assert (aws.launch_template, aws.images, aws.subnets) == ("gpu:3", {"us-west-2": "ami-1"}, {"us-east-1a": "subnet-1"})
    assert (aws.threads, aws.call_timeout_s, aws.read_timeout_s) == (4, 15.0, 15.0)
    assert aws.on_demand_usd_h["us-west-2/p5.48xlarge"] == 99.0


def test_without_an_endpoint_amazons_own_is_used(path: Path) -> None:
    path.write_text(SHORT + '[providers.aws]\nregions = ["us-east-1"]\n')
    aws = load_config(path).providers.aws
    assert aws is not None
    assert (aws.with_cluster("c").endpoint_url, aws.with_cluster("c").security_groups) == (None, {})


def test_every_fault_is_told_at_once(path: Path) -> None:
    text = """
cluster = "Lab"
state_dirr = "/s"
policy = "policy.toml"
[slurm]
timeout_s = "10"
[listen]
tcp = "0.0.0.0:7420"
group = "a b"
[timing]
agent_lost_s = 6
watch_busy_s = 5
[auth]
munge_sockett = "/x"
[providers.aws]
region = "us-east-1"
regions = ["us-east-1", "us-east-1"]
subnets = {eu-west-1a = "subnet-1"}
images = {eu-west-1 = "ami-1"}
endpoint_url = "https://key:secret@host"
on_demand_usd_h = {p5 = 0}
max_in_flight = 0
[providers.gcp]
project = "x"
regionz = ["us-central1"]
batch = 0
name = "mine"
cluster = "other"
"""
    remote = "other hosts can reach it, and without TLS the calls can be read and altered on the way: listen on 127.0.0.1, or set"
    told = [fault.partition("(known: batch")[0].partition("(known: boot")[0] for fault in faults(path, text)]
    told = [f"{fault}(known: " if fault.endswith("'regions'? ") else fault for fault in told]
    assert sorted(told) == sorted(
        [
            "cluster: 'Lab' is not allowed: write 1 to 40 of a-z, 0-9 and -: it is tagged on every instance",
            "state_dir is missing",
            "state_dirr: unknown key; did you mean 'state_dir'?"
            " (known: auth, cluster, health_rules, listen, metrics, nodes, policy, providers, slurm, state_dir, timing)",
            "policy: 'policy.toml' is not allowed: write an absolute path",
            "slurm.timeout_s: '10' is not allowed: should be a valid number",
            f"listen.tcp: '0.0.0.0:7420': {remote} allow_remote_without_tls = true for a network that you trust",
            "listen.group: 'a b' is not allowed: write a group's name",
            "timing.agent_lost_s: 6 is less than 2 times timing.agent_heartbeat_s (5.0)",
            "timing.watch_idle_s: 2.0 is less than timing.watch_busy_s (5)",
            "auth.munge_sockett: unknown key; did you mean 'munge_socket'? (known: munge_socket)",
            "providers.aws.region: unknown key; did you mean 'regions'? (known: ",
            "providers.aws.regions: a region is named twice in ['us-east-1', 'us-east-1']",
            "providers.aws.subnets.eu-west-1a: is in none of the regions us-east-1, us-east-1",
            "providers.aws.images.eu-west-1: is none of the regions us-east-1, us-east-1",
            "providers.aws.endpoint_url: 'https://key:secret@host' is not allowed: write http://host:port or https://host,"
            " without credentials",
            "providers.aws.on_demand_usd_h.p5: 0 is not allowed: should be greater than 0",
            "providers.aws.max_in_flight: 0 is not allowed: should be greater than or equal to 1",
            "providers.gcp.regions is missing",
            "providers.gcp.name: unknown key",
            "providers.gcp.cluster: unknown key",
            "providers.gcp.regionz: unknown key; did you mean 'regions'? (known: ",
            "providers.gcp.batch: 0 is not allowed: should be greater than or equal to 1",
        ]
    )


def test_the_providers_own_demands_are_faults_of_the_file(path: Path) -> None:
    found = faults(path, SHORT + '[providers.aws]\nregions = ["' + "r" * 64 + '"]\n')
    assert found
    assert all(fault.startswith("providers.aws.regions") for fault in found)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * 300_000, b"cluster = ", b"[[[[", b""])
def test_what_cannot_be_read_names_the_file(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"controller\.toml: "):
        load_config(path)


def test_a_missing_file_and_a_directory_are_named(path: Path) -> None:
    for wrong in (path, path.parent):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_config(wrong)


def test_google_and_azure_are_told_their_own_tables(path: Path) -> None:
    gcp = '[providers.gcp]\nproject = "lab-1"\nregions = ["us-central1"]\nmax_in_flight = 3\nendpoint_url = "http://127.0.0.1:1"\n'
    azure = (
        '[providers.azure]\nsubscription = "0-1"\nresource_group = "rg"\nregions = ["eastus"]\nbatch = 100\n'
        'ssh_public_key = "ssh-ed25519 AAAA admin"\n'
    )
    path.write_text(SHORT + gcp + azure)
    config = load_config(path)
    assert config.providers.names == {"gcp", "azure"}
    assert config.providers.gcp is not None
    assert config.providers.azure is not None
    google = gcp_config(config.providers.gcp, config.cluster)
    assert (google.cluster, google.project, google.endpoint_url) == ("c", "lab-1", "http://127.0.0.1:1")
    assert azure_config(config.providers.azure, config.cluster).resource_group == "rg"
    assert config.providers.bounds == {"gcp": Bounds(3, 500), "azure": Bounds(8, 100)}


def test_the_aws_providers_further_keys_reach_it(path: Path) -> None:
    more = 'queue_urls = {us-east-1 = "http://127.0.0.1:1/123456789012/q"}\nefa_interfaces = {"p5.48xlarge" = 32}\n'
    more += 'spot_strategy = "lowest-price"\nrates = {run_instances = [50, 20.5]}\n'
    path.write_text(SHORT + '[providers.aws]\nregions = ["us-east-1"]\n' + more)
    aws = load_config(path).providers.aws
    assert aws is not None
    found = aws.with_cluster("c")
    assert (found.efa_interfaces, found.spot_strategy) == ({"p5.48xlarge": 32}, "lowest-price")
    assert found.rates == {"run_instances": (50.0, 20.5)}
    assert found.queue_urls == {"us-east-1": "http://127.0.0.1:1/123456789012/q"}
    wrong = path.read_text().replace("lowest-price", "cheapest")
    assert any("cheapest" in fault for fault in faults(path, wrong))
