"""The user data through cloud-init's own code: what it merges out of both parts, and that its schema knows every key.

Debian's package is only unpacked for this (scripts/setup, into .venv/cloud-init), never installed: it would run when the machine boots.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
from holdfast_controller.bootstrap import OUR_PATHS, bootstrap
from holdfast_controller.bootstrap_config import Cloud, NodeSettings

PLACES = (Path(sys.prefix) / "cloud-init", Path("/usr/lib/python3/dist-packages"))
PLACE = next((place for place in PLACES if (place / "cloudinit" / "user_data.py").exists()), None)

pytestmark = pytest.mark.skipif(PLACE is None, reason=f"cloud-init's code is in none of {', '.join(map(str, PLACES))}: run scripts/setup")

MERGED = """\
import email, json, sys, tempfile, warnings
warnings.simplefilter("ignore")
sys.path.append(sys.argv[1])
from cloudinit import handlers, helpers, user_data, util
from cloudinit.handlers.cloud_config import CloudConfigPartHandler

directory = tempfile.mkdtemp()
paths = helpers.Paths({"cloud_dir": directory, "run_dir": directory})
merged = directory + "/merged"
paths.get_ipath = lambda name=None: merged
handler = CloudConfigPartHandler(paths)
handler.handle_part(None, handlers.CONTENT_START, None, None, None, None)
for part in user_data.UserDataProcessor(paths).process(sys.stdin.buffer.read()).walk():
    if not part.is_multipart():
        text = util.fully_decoded_payload(part)
        handler.handle_part(None, part.get_content_type(), part.get_filename() or "part", text, None, dict(part.items()))
handler.handle_part(None, handlers.CONTENT_END, None, None, None, None)
print(json.dumps(util.load_yaml(open(merged).read())))
"""
SETTINGS = NodeSettings.model_validate(
    {
        "controller": "10.0.0.5:7420",
        "conf_server": "10.0.0.5",
        "munge_key": {
            "aws": "arn:aws:secretsmanager:us-east-1:123456789012:secret:m",
            "gcp": "projects/p/secrets/m/versions/1",
            "azure": "https://vault.vault.azure.net/secrets/m",
        },
    }
)


def merged(cloud: Cloud, own: str, directory: Path) -> dict[str, Any]:
    text = bootstrap(SETTINGS, cloud, "physics", "l-1", "l-1.0", own=own)
    command = [sys.executable, "-c", MERGED, str(PLACE)]
    done = subprocess.run(command, input=text.encode(), capture_output=True, check=True, env={"TMPDIR": str(directory)})
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def validator() -> jsonschema.Draft4Validator:
    assert PLACE
    schema = json.loads((PLACE / "cloudinit" / "config" / "schemas" / "schema-cloud-config-v1.json").read_text())
    return jsonschema.Draft4Validator(schema)


@pytest.mark.parametrize("cloud", get_args(Cloud))
def test_its_schema_accepts_what_it_reads_of_ours(cloud: Cloud, tmp_path: Path) -> None:
    found = merged(cloud, "", tmp_path)
    assert {file["path"] for file in found["write_files"]} == OUR_PATHS
    assert list(validator().iter_errors(found)) == []
    found["write_files"][0]["permissions"] = 0o644
    assert list(validator().iter_errors(found)), "the schema says nothing of write_files"


OWN = """\
#cloud-config
mounts: [["fs.example:/home", /home, nfs]]
write_files:
- {path: /etc/motd, content: "Grüße"}
runcmd: [[touch, /ran]]
"""


@pytest.mark.parametrize("own", [OWN, OWN.replace("ü", "ue").replace("ß", "ss")], ids=["utf-8", "ascii"])
def test_the_sites_keys_are_added_and_ours_stay(own: str, tmp_path: Path) -> None:
    found, ours = merged("aws", own, tmp_path), merged("aws", "", tmp_path)
    assert found.keys() == {"mounts", "write_files", "runcmd"}
    assert found["write_files"][:-1] == ours["write_files"]
    assert found["write_files"][-1] == {"path": "/etc/motd", "content": "Grüße" if own == OWN else "Gruesse"}
    assert list(validator().iter_errors(found)) == []


def test_a_part_that_it_cannot_read_takes_ours_away_in_no_case(tmp_path: Path) -> None:
    assert merged("aws", "#cloud-config\na: [\n", tmp_path) == merged("aws", "", tmp_path)
