"""Access tokens: kept as hashes in a file of its owner, read again when it changes, told once."""

from __future__ import annotations

import hmac
import os
import re
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from citybrain import app
from connectors import tokens as module
from connectors.tokens import FILE, TokenError, Tokens


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path)


def test_a_secret_finds_its_token_and_is_kept_nowhere(tokens: Tokens) -> None:
    secret = tokens.add("buses", ["ingest:buses", "read"])
    other = tokens.add("admin", ["admin"])
    assert len(secret) >= 22 and secret != other
    found = tokens.find(secret)
    assert found is not None and (found.name, found.scopes, found.sources) == (
        "buses",
        ("ingest:buses", "read"),
        ("buses",),
    )
    assert [tokens.find(x) for x in ("", secret[:-1], secret + "x", "é", "\udcff")] == [None] * 5
    assert secret not in tokens.path.read_text() and os.stat(tokens.path).st_mode & 0o777 == 0o600
    assert len(list(tokens.path.parent.iterdir())) == 1


def test_every_hash_is_compared_in_constant_time(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tokens.add("a", ["read"])
    tokens.add("b", ["read"])
    compared: list[str] = []
    real = hmac.compare_digest

    def digest(a: str, b: str) -> bool:
        compared.append(a)
        return real(a, b)

    monkeypatch.setattr(module.hmac, "compare_digest", digest)
    tokens.find(secret)
    tokens.find("x")
    assert len(compared) == 4


def test_changes_by_another_process_count_at_once(tokens: Tokens) -> None:
    running = Tokens(tokens.path.parent)
    assert running.all() == ()
    secret = tokens.add("a", ["read"])
    assert running.find(secret) is not None
    tokens.remove("a")
    assert running.find(secret) is None
    tokens.path.unlink()
    assert running.all() == ()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620])
def test_a_file_that_others_may_use_is_refused(tokens: Tokens, mode: int) -> None:
    secret = tokens.add("a", ["read"])
    assert tokens.find(secret)
    tokens.path.chmod(mode)
    with pytest.raises(TokenError, match=r"by others; type chmod 600"):
        tokens.find(secret)
    tokens.path.chmod(0o600)
    assert tokens.find(secret)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"version":9,"tokens":[]}',
        '{"version":1,"tokens":[{"name":"x"}]}',
        '{"version":1,"tokens":[{"name":"x","sha256":"\u00e9","scopes":[]}]}',
        '{"version":1,"tokens":[{"name":"x","sha256":"%s","scopes":"read"}]}' % ("0" * 64),
    ],
)
def test_a_file_that_is_not_understood_is_refused(tokens: Tokens, content: str) -> None:
    tokens.path.write_text(content)
    tokens.path.chmod(0o600)
    with pytest.raises(TokenError, match=re.escape(str(tokens.path))) as refused:
        tokens.find("x")
    # What it says to do works.
    commands = re.findall(r"`(.*?)`", str(refused.value))
    assert commands[1:] == ["citybrain token add"]
    subprocess.run(commands[0], shell=True, check=True)
    assert tokens.find(tokens.add("a", ["read"])) is not None
    assert tokens.path.with_suffix(".json.damaged").read_text() == content


@pytest.mark.parametrize(
    ("name", "scopes", "why"),
    [
        ("../x", ["read"], "not allowed"), ("", ["read"], "not allowed"), ("A", ["read"], "not allowed"),
        ("a", [], "needs a scope"), ("a", ["write"], "unknown; there are ingest:SOURCE, read, ack, admin"),
        ("a", ["ingest:"], "unknown"), ("a", ["ingest:../../etc"], "unknown"), ("a", ["ingest:a/b"], "unknown"),
        ("taken", ["read"], "exists"),
    ],
)  # fmt: skip
def test_what_is_not_allowed(tokens: Tokens, name: str, scopes: list[str], why: str) -> None:
    tokens.add("taken", ["read"])
    with pytest.raises(TokenError, match=why):
        tokens.add(name, scopes)
    with pytest.raises(TokenError, match="there is no token 'gone'; there are taken"):
        tokens.remove("gone")


def test_the_command(tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["token", *arguments, "--data", str(tmp_path)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        said.append(done.stderr)
        return done.stdout

    said: list[str] = []
    assert run("list") == "" and not (tmp_path / "demo").exists()
    secret = run("add", "buses", "--scope", "ingest:buses", "--scope", "read").strip()
    tokens = Tokens(tmp_path / "demo")
    assert tokens.path == tmp_path / "demo" / FILE and tokens.find(secret) is not None
    assert f"for {tmp_path}/demo (a new folder);" in said[-1]
    run("add", "other", "--scope", "read")
    assert f"for {tmp_path}/demo; " in said[-1] and run("remove", "other")
    assert run("list") == "buses\tingest:buses read\n"
    assert run("remove", "buses") == "removed buses\n" and run("list") == ""
