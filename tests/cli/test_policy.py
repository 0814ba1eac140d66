"""`holdfast policy` as an admin sees it."""

import json
import os
import pty

import pytest

pytestmark = pytest.mark.timeout(120)  # each test starts several processes, on what may be a busy machine

WIDER = 'nodes = "spot-[1-5]"'


def wider(stage) -> str:  # type: ignore[no-untyped-def]
    text = stage.policy.read_text().replace('nodes = "spot-[1-3]"', WIDER)
    path = stage.directory / "new.toml"
    path.write_text(text)
    return str(path)


async def test_the_policy_is_shown_as_it_was_written(stage) -> None:
    shown = await stage.cli("policy", "show")
    assert shown.out == stage.policy.read_text()
    assert shown.err == f"revision {stage.policies.revision}\n"
    document = (await stage.cli("policy", "show", "--json")).document
    assert set(document) == {"revision", "toml", "policy"}
    assert document["policy"]["node_groups"]["gpu"]["nodes"] == "spot-[1-3]"


async def test_a_policy_is_checked_without_a_controller(stage) -> None:
    await stage.stop()
    try:
        good = await stage.cli("policy", "check", str(stage.policy))
        assert good.code == 0
        assert "is fine: revision " in good.out
        assert "3 nodes, 1 partition(s), 1 pool(s)." in good.out
        bad = stage.directory / "bad.toml"
        bad.write_text(stage.policy.read_text().replace("version = 1", "version = 2").replace('market = "spot"', 'market = "spott"'))
        faulty = await stage.cli("policy", "check", str(bad))
        assert (faulty.code, faulty.out) == (1, "")
        assert [line.startswith(f"{bad}: ") for line in faulty.err.splitlines()] == [True, True]
        assert "did you mean 'spot'?" in faulty.err
        document = (await stage.cli("policy", "check", str(bad), "--json")).document
        assert (set(document), document["ok"], len(document["faults"])) == ({"file", "ok", "revision", "faults"}, False, 2)
        assert (await stage.cli("policy", "check", "-", text=stage.policy.read_text())).code == 0
        missing = await stage.cli("policy", "check", str(stage.directory / "none"))
        assert missing.code == 1
        assert "No such file" in missing.err
    finally:
        await stage.start()


async def test_a_check_can_ask_the_controller_too(stage) -> None:
    assert (await stage.cli("policy", "check", wider(stage), "--socket", str(stage.socket))).code == 0
    assert (await stage.cli("policy", "check", wider(stage), "--socket", str(stage.directory / "none"))).code == 3
    assert "spot-5" not in stage.fleet.nodes


async def test_setting_a_policy_shows_what_changes(stage) -> None:
    old = stage.policies.revision
    done = await stage.cli("policy", "set", wider(stage), "--yes")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0] == f"--- in force ({old})"
    assert '-nodes = "spot-[1-3]"' in lines
    assert f"+{WIDER}" in lines
    assert lines[-1] == f"policy {stage.policies.revision} is in force."
    assert "spot-5" in stage.fleet.nodes
    again = await stage.cli("policy", "set", wider(stage), "--json")
    assert again.document == {"changed": False, "revision": stage.policies.revision, "diff": "", "faults": []}


async def test_without_a_terminal_and_without_yes_nothing_is_set(stage) -> None:
    done = await stage.cli("policy", "set", wider(stage))
    assert done.code == 2
    assert "--yes" in done.err
    assert WIDER not in stage.policy.read_text()


async def answered(stage, answer: bytes, *arguments: str):  # type: ignore[no-untyped-def]
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer)
        return await stage.cli("policy", "set", *arguments, stdin=theirs)
    finally:
        os.close(ours)
        os.close(theirs)


async def test_an_admin_is_asked(stage) -> None:
    refused = await answered(stage, b"n\n", wider(stage))
    assert (refused.code, "nothing was changed" in refused.err) == (1, True)
    assert WIDER not in stage.policy.read_text()
    agreed = await answered(stage, b"y\n", wider(stage), "--json")
    assert agreed.code == 0
    assert json.loads(agreed.out)["changed"] is True
    assert WIDER in stage.policy.read_text()


async def test_a_policy_that_another_set_meanwhile_is_not_overwritten(stage, monkeypatch) -> None:
    theirs = stage.policy.read_text().replace('nodes = "spot-[1-3]"', 'nodes = "spot-[1-9]"')
    check = stage.policies.check

    def meanwhile(text: str) -> str:
        stage.policies.set(theirs, stage.fleet)
        return check(text)

    monkeypatch.setattr(stage.policies, "check", meanwhile)
    done = await stage.cli("policy", "set", wider(stage), "--yes")
    assert done.code == 4
    assert "changed meanwhile" in done.err
    assert stage.policy.read_text() == theirs


async def test_a_faulty_policy_is_not_set(stage) -> None:
    done = await stage.cli("policy", "set", "-", "--yes", text="version = 1\nnonsense = 2\n")
    assert done.code == 1
    assert "-: nonsense: unknown key" in done.err
    binary = await stage.cli("policy", "set", "-", "--yes", text="\udcff".encode("utf-8", "surrogateescape").decode("latin-1"))
    assert binary.code == 1
