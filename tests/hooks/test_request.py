"""What a resume file may look like, and what is refused."""

import json

import pytest
from holdfast_common.errors import InputError
from holdfast_slurm.hooks import request
from holdfast_slurm.hooks.request import JobNodes, parse_resume_file, read_request


def test_slurm_22_05():
    text = b'{"jobs":[{"job_id":1,"nodes":"spot-[1-2]"}],"all_nodes":"spot-[1-2]"}'
    assert parse_resume_file(text) == ("spot-[1-2]", (JobNodes(1, ("spot-1", "spot-2")),))


def test_slurm_24_11_and_later():
    job = {
        "extra": None,
        "features": "a&b",
        "job_id": 140814,
        "nodes_alloc": "spot-[1-3]",
        "nodes_resume": "spot-3",
        "oversubscribe": "OK",
        "partition": "spot",
        "reservation": None,
        "priority": 5,
    }
    text = json.dumps({"all_nodes_resume": "spot-3", "jobs": [job]}).encode()
    assert parse_resume_file(text) == ("spot-3", (JobNodes(140814, ("spot-3",), ("spot-1", "spot-2", "spot-3")),))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"jobs":{}}',
        b'{"jobs":[1]}',
        b'{"jobs":[{"nodes":"a"}]}',
        b'{"jobs":[{"job_id":true,"nodes":"a"}]}',
        b'{"jobs":[{"job_id":0,"nodes":"a"}]}',
        b'{"jobs":[{"job_id":4294967296,"nodes":"a"}]}',
        b'{"jobs":[{"job_id":1,"nodes":["a"]}]}',
        b'{"jobs":[{"job_id":1,"nodes":"a;rm"}]}',
        b'{"jobs":[{"job_id":1,"nodes":"a[1-99999999]"}]}',
        b'{"jobs":[{"job_id":NaN,"nodes":"a"}]}',
        b'{"jobs":[],"all_nodes":5}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_malformed(text):
    with pytest.raises(InputError):
        parse_resume_file(text)


def test_file_alone_gives_the_nodes(tmp_path):
    file = tmp_path / "r"
    file.write_text('{"jobs":[],"all_nodes":"spot-9"}')
    assert read_request("", {"SLURM_RESUME_FILE": str(file)}).nodes == ("spot-9",)


def test_arguments_win_over_the_file(tmp_path):
    file = tmp_path / "r"
    file.write_text('{"jobs":[{"job_id":4,"nodes":"spot-9"}],"all_nodes":"spot-9"}')
    found = read_request("spot-1", {"SLURM_RESUME_FILE": str(file)})
    assert found.nodes == ("spot-1",)
    assert [job.job_id for job in found.jobs] == [4]


def test_file_beyond_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(request, "RESUME_FILE_LIMIT_BYTES", 10)
    file = tmp_path / "r"
    file.write_text('{"jobs":[],"all_nodes":"spot-9"}')
    found = read_request("spot-1", {"SLURM_RESUME_FILE": str(file)})
    assert found.nodes == ("spot-1",)
    assert "longer than 10 bytes" in found.faults[0]


def test_jobs_that_name_too_many_nodes_are_left_out(tmp_path):
    file = tmp_path / "r"
    jobs = [{"job_id": number, "nodes": "n[1-60000]"} for number in (1, 2)]
    file.write_text(json.dumps({"jobs": jobs, "all_nodes": "n1"}))
    found = read_request("n1", {"SLURM_RESUME_FILE": str(file)})
    assert (found.nodes, found.jobs, len(found.faults)) == (("n1",), (), 1)


@pytest.mark.parametrize("nodes", ["", "a b", "$(reboot)", "n[1-"])
def test_no_usable_node_list(nodes):
    with pytest.raises(InputError):
        read_request(nodes, {})


def test_file_that_is_gone_is_a_fault_and_no_error():
    assert read_request("n1", {"SLURM_RESUME_FILE": "/proc/1/fd/987654"}).faults
