"""An account's folder: two accounts beside each other, the former place, tokens that tell whose they are."""

from __future__ import annotations

import shutil
import stat

import pytest

from control_plane.auth.creds import Creds
from tests.control_plane.conftest import Program


async def test_two_accounts_have_two_folders(program: Program) -> None:
    await program("create")
    await program("create", "--initials", "AB")
    held = [(program.config / f"POC-{initials}" / "client.creds").read_text() for initials in ("TT", "AB")]
    assert Creds.parse(held[0]).account == program.fake.account("POC-TT").key.public
    assert Creds.parse(held[1]).account == program.fake.account("POC-AB").key.public
    assert (await program("delete", "--yes", "--initials", "AB"))[0] == 0
    assert not (program.config / "POC-AB").exists()
    assert (program.config / "POC-TT" / "client.creds").read_text() == held[0]
    assert (await program("status"))[0] == 0


async def test_what_is_in_the_former_place_is_read_and_moved_with_a_word(program: Program) -> None:
    await program("create")
    await program("create", "--initials", "AB")
    held = program.files.creds("client")
    for path in program.files.folder.glob("*.creds"):
        path.rename(program.config / path.name)
    shutil.rmtree(program.files.folder)
    (program.config / "http-gateway.token").write_text("nhg_0\n")
    code, output, _ = await program("status")
    assert code == 3
    assert "  * place" in output
    assert (await program("secret", "push"))[0] == 0, "it is read where it is"
    await program("secret", "delete")
    _, output, _ = await program("create", "--initials", "AB")
    assert output.startswith("nothing to do"), "they are another account's"
    _, output, _ = await program("create")
    assert f"changed  credentials {program.files.creds_path('client')}: place {program.config} -> " in output
    assert program.files.creds("client") == held
    assert [path.name for path in program.config.iterdir() if path.is_file()] == []
    assert stat.S_IMODE(program.files.creds_path("client").stat().st_mode) == 0o600
    assert (await program("status"))[0] == 0


async def test_another_accounts_credentials_in_the_former_place_are_left_alone(program: Program) -> None:
    await program("create", "--initials", "AB")
    (program.config / "POC-AB" / "client.creds").rename(program.config / "client.creds")
    held = (program.config / "client.creds").read_text()
    assert (await program("create"))[0] == 0
    assert program.files.creds("client") not in (None, held)
    assert (await program("delete", "--yes"))[0] == 0
    assert (program.config / "client.creds").read_text() == held


@pytest.mark.parametrize("whose", ["a revoked key", "another account", "nobody known"])
async def test_a_gateways_token_is_the_accounts_and_the_keys(program: Program, whose: str) -> None:
    await program("create")
    path = program.files.token_path("gateway")
    if whose == "a revoked key":
        await program("rotate", "--user", "gateway", "--keep-old")
        path.write_text(program.fake.tokens[0] + "\n")
    elif whose == "another account":
        await program("create", "--initials", "AB")
        for name in ("gateway.token", "provisioning.json"):
            shutil.copy(program.config / "POC-AB" / name, program.files.folder / name)
    else:
        (program.files.folder / "provisioning.json").unlink()
    code, output, _ = await program("status")
    assert code == 3
    assert "drifted    gateway token" in output
    assert (await program("create"))[0] == 0
    assert program.fake.tokens[-1] in {path.read_text().strip(), program.files.token("registrar")}
    assert (await program("status"))[0] == 0


async def test_a_deletion_that_stopped_leaves_nothing(program: Program) -> None:
    fake = program.fake
    await program("create")
    fake.calls.clear()
    await program("delete", "--yes")
    calls = len(fake.calls)
    for number in range(calls - 4, calls):
        await program("create")
        fake.calls.clear()
        fake.failure, fake.fail_from = "lost after", number
        await program("delete", "--yes")
        fake.fail_from = None
        assert (await program("delete", "--yes"))[0] == 0
        assert not program.files.folder.exists()


async def test_credentials_of_an_account_that_is_gone_go_too(program: Program) -> None:
    await program("create")
    fake = program.fake
    fake.users.clear()
    fake.accounts = {id_: account for id_, account in fake.accounts.items() if account.system}
    code, output, _ = await program("delete", "--yes")
    assert code == 0
    assert "removed  credentials in" in output
    assert not program.files.folder.exists()


@pytest.mark.parametrize("name", ["client.creds", "gateway.token", "provisioning.json"])
async def test_a_folder_where_a_file_should_be_is_one_line(program: Program, name: str) -> None:
    await program("create")
    (program.files.folder / name).unlink()
    (program.files.folder / name).mkdir()
    for arguments in (("status",), ("create",), ("rotate", "--user", "gateway")):
        code, _, error = await program(*arguments)
        if (name, arguments[0]) != ("client.creds", "rotate"):
            assert code == 1
            assert name in error
        assert error.count("\n") <= 1


async def test_a_file_for_a_folder_is_a_wrong_argument(program: Program) -> None:
    program.config.write_text("")
    code, _, error = await program("list")
    assert (code, error) == (2, f"error: --config {program.config} is not a folder\n")


async def test_a_token_that_others_can_read_is_said(program: Program) -> None:
    token = program.env.pop("SYNADIA_TOKEN")
    program.config.mkdir()
    path = program.config / "control-plane-agent.token"
    path.write_text(token)
    path.chmod(0o644)
    code, _, error = await program("list")
    assert (code, error) == (0, f"note: others can read {path}; prevent that with `chmod 600 {path}`\n")
    path.chmod(0o600)
    assert (await program("list"))[2] == ""


@pytest.mark.parametrize("damage", ["\nsecond line", "\u00e9", " two words"])
async def test_a_damaged_token_is_in_no_message(program: Program, damage: str) -> None:
    del program.env["SYNADIA_TOKEN"]
    program.config.mkdir()
    path = program.config / "control-plane-agent.token"
    path.write_text("uat_sesame" + damage)
    path.chmod(0o600)
    code, output, error = await program("list")
    assert code == 2
    assert "sesame" not in output + error
    assert "personal access token is not one line of plain characters" in error
