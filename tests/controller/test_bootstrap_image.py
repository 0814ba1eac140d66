"""The recipe of the image and the user data fit: what one names the other puts there."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from holdfast_controller.bootstrap import LOGIND, RELEASE_COMMAND, SLURMD_COMMAND, bootstrap
from holdfast_controller.bootstrap_config import NodeSettings

DEPLOY = Path(__file__).parents[2] / "deploy"
IMAGE, UNITS = DEPLOY / "image", DEPLOY / "systemd"
BUILD = (IMAGE / "build").read_text()


def test_the_recipe_is_a_script_that_parses_and_says_what_it_wants() -> None:
    assert os.access(IMAGE / "build", os.X_OK)
    assert subprocess.run(["bash", "-n", IMAGE / "build"], check=False).returncode == 0
    told = subprocess.run([IMAGE / "build", "--help"], capture_output=True, text=True, check=True).stdout
    assert "--hooks DIR" in told
    assert "--munge-key FILE" in told
    for wrong in (["--nope"], [], ["--hooks", "/nonexistent"]):
        assert subprocess.run([IMAGE / "build", *wrong], capture_output=True, check=False).returncode == 2


def test_it_installs_every_file_of_its_folder_and_every_unit_of_a_node() -> None:
    for name in {path.name for path in IMAGE.iterdir() if path.is_file()} - {"build"}:
        assert f'"$image/{name}"' in BUILD, name
    for unit in UNITS.glob("*.service"):
        assert (unit.name in BUILD) == (unit.name != "holdfast-controller.service"), unit.name


def test_the_units_start_what_it_installs() -> None:
    installed = set(re.findall(r"(?m)^install .*?(/\S+)$", BUILD))
    for unit in ("holdfast-munge-key", "holdfast-metadata"):
        words = re.search(r"(?m)^ExecStart=(.+)$", (UNITS / f"{unit}.service").read_text())
        assert words
        assert installed & set(words[1].split()), unit
    for command in (SLURMD_COMMAND, RELEASE_COMMAND):
        assert command[2].partition("@")[0] + "@.service" in BUILD


def test_enabled_are_those_that_are_to_start_by_themselves() -> None:
    enabled = re.search(r"(?m)^systemctl enable (.+)$", BUILD)
    assert enabled
    for unit in UNITS.glob("*.service"):
        starts = "[Install]" in unit.read_text() and unit.name != "holdfast-controller.service"
        assert (unit.name in enabled[1].split()) == starts, unit.name


def test_logind_is_told_the_same_by_the_image_and_by_the_user_data() -> None:
    text = bootstrap(NodeSettings(controller="a:1"), "gcp", "physics", "l", "l.0")
    files = {file["path"]: file["content"] for file in yaml.safe_load(text)["write_files"]}
    assert files[LOGIND] == (IMAGE / "logind.conf").read_text()
    assert LOGIND in BUILD


def test_munge_waits_for_its_key_the_key_for_the_fence_and_slurmd_for_the_agent() -> None:
    key, fence, slurmd, agent = ((UNITS / f"holdfast-{name}.service").read_text() for name in ("munge-key", "metadata", "slurmd@", "agent"))
    assert "\nBefore=munge.service\n" in key
    assert "\nRequiredBy=munge.service\n" in key
    assert "\nBefore=holdfast-munge-key.service\n" in fence
    assert "\nRequiredBy=holdfast-munge-key.service\n" in fence
    assert re.search(r"(?m)^After=.* munge\.service( |$)", agent)
    assert re.search(r"(?m)^After=.* cloud-init\.service ", agent)
    assert re.search(r"(?m)^After=.* holdfast-agent\.service( |$)", slurmd), "when the guest shuts down, slurmd must end before the agent"


CONNECT = "import socket, sys; socket.create_connection(('169.254.169.254', int(sys.argv[1])), 3)"
FENCE = """\
set -e
[ "$(ip -o link | wc -l)" = 1 ]  # a network of its own: the real service cannot be reached from here
ip link set lo up
ip address add 169.254.169.254/32 dev lo
nft -f "$1"
nft -f "$1"
for port in 80 53; do
  /usr/bin/python3 -m http.server --bind 169.254.169.254 $port >/dev/null 2>&1 &
  until /usr/bin/python3 -c "$2" $port 2>/dev/null; do sleep 0.05; done
  setpriv --reuid 65534 --regid 65534 --clear-groups /usr/bin/python3 -c "$2" $port 2>/dev/null && echo "$port open" || echo "$port shut"
done
kill %1 %2
"""


@pytest.mark.skipif(shutil.which("nft") is None, reason="nftables is not installed (it is in the nodes' image): apt-get install nftables")
def test_only_root_reaches_the_metadata_service_and_everybody_the_name_server() -> None:
    done = subprocess.run(
        ["unshare", "--net", "bash", "-c", FENCE, "fence", str(IMAGE / "metadata.nft"), CONNECT], capture_output=True, text=True, check=True
    )
    assert done.stdout == "80 shut\n53 open\n"
