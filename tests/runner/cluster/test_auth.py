"""Test the authentication token (creation, permissions, errors), cluster addresses and the checks of the doctor."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

import actors.kernels.mixture.gibbs  # noqa: F401 (the cache directory of the kernels is fixed at import)
from runner.cli.doctor import CheckFailedError, _files, _kernels, _token
from runner.cluster.auth import TokenError, describe_credential, ensure_private_token, token_problem
from runner.cluster.connection import ClusterError, _resolve_address


@pytest.fixture(autouse=True)
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "home" / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class TestToken:
    def test_a_token_is_created_for_its_owner_only_and_kept(self, token: Path) -> None:
        ensure_private_token(create=True)
        created = token.read_text()
        ensure_private_token(create=True)
        assert (len(created), mode(token), token.read_text()) == (64, 0o600, created)

    def test_a_partially_written_token_is_never_visible(self, token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Another run creates the token at the same moment."""
        link = Path.hardlink_to
        monkeypatch.setattr(Path, "hardlink_to", lambda path, part: path.write_text("theirs") and link(path, part))
        ensure_private_token(create=True)
        assert token.read_text() == "theirs"
        assert [path.name for path in token.parent.iterdir()] == ["token"]

    def test_a_token_that_others_can_read_is_reported_and_made_private(self, token: Path) -> None:
        ensure_private_token(create=True)
        token.chmod(0o644)
        assert token_problem() == (
            f"{token} has mode 0644: other users can read the token; run chmod 600 {token}, and, if other people "
            "use this machine, replace the token on every machine that has it"
        )
        ensure_private_token(create=False)
        assert (token_problem(), mode(token)) == ("", 0o600)

    @pytest.mark.parametrize("content", [None, ""])
    def test_joining_without_a_token_names_the_path_of_its_file(self, token: Path, content: str | None) -> None:
        token.parent.mkdir()
        if content is not None:
            token.write_text(content)
        with pytest.raises(
            TokenError, match=f"^{token} contains no token; copy the cluster's token there with mode 0600, or name"
        ):
            ensure_private_token(create=False)

    def test_a_path_that_cannot_be_written_is_reported_with_the_remedy(self, token: Path) -> None:
        token.parent.write_text("a file in the way")
        with pytest.raises(
            TokenError, match=r"the token cannot be stored there \(.*\); name another file with RAY_AUTH_TOKEN_PATH"
        ):
            ensure_private_token(create=True)

    def test_no_token_is_needed_when_authentication_is_disabled(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        ensure_private_token(create=False)
        assert describe_credential() == "no token (RAY_AUTH_MODE is disabled)"


class TestAddress:
    @pytest.mark.parametrize(
        ("address", "reason"),
        [
            ("ray://127.0.0.1:10001", "ray:// addresses are for Ray Client"),
            ("127.0.0.1", "expected an address of the form HOST:PORT"),
            ("127.0.0.1:x", "expected an address of the form HOST:PORT"),
            ("127.0.0.1:1", "no process is listening there"),
        ],
    )
    def test_an_unusable_address_is_rejected_with_the_reason(self, address: str, reason: str) -> None:
        with pytest.raises(ClusterError, match=f"^no Ray cluster could be reached at {address}: {reason}"):
            _resolve_address(address)

    @pytest.mark.parametrize(
        ("running", "reason"),
        [
            (["127.0.0.1:1", "127.0.0.1:2"], "no process is listening at 127.0.0.1:1, the address of a node of Ray"),
            ([], "no Ray cluster of yours is running on this"),
        ],
    )
    def test_auto_without_a_running_cluster_is_rejected_with_the_reason(
        self, monkeypatch: pytest.MonkeyPatch, running: list[str], reason: str
    ) -> None:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setattr("runner.cluster.connection.running_cluster_addresses", lambda: running)
        with pytest.raises(ClusterError, match=f"^no Ray cluster could be reached at auto: {reason}"):
            _resolve_address("auto")

    def test_auto_is_the_address_in_the_environment_where_there_is_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAY_ADDRESS", "ray://127.0.0.1:1")
        with pytest.raises(ClusterError, match="ray:// addresses are for Ray Client"):
            _resolve_address("auto")


class TestDoctor:
    def test_the_spelling_of_the_authentication_mode_does_not_matter(
        self, token: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RAY_AUTH_MODE", "TOKEN")
        assert _token() == f"token authentication, with the token of {token}, which the first run creates"
        ensure_private_token(create=True)
        assert _token() == f"token authentication, with the token of {token}, mode 0600"

    def test_disabled_authentication_fails_the_check(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        with pytest.raises(CheckFailedError, match=r"RAY_AUTH_MODE is disabled: .* set RAY_AUTH_MODE=token"):
            _token()

    @pytest.mark.parametrize("directory", ["runs", "runs/digits", "runs/digits/checkpoints"])
    def test_a_directory_writable_by_every_user_fails_the_check(self, directory: str) -> None:
        Path("runs/digits/checkpoints").mkdir(parents=True)
        assert _files() == "runs/ is not writable by every user"
        Path(directory).chmod(0o777)
        with pytest.raises(
            CheckFailedError, match=f"{directory} is writable by every user of this machine; run chmod o-w"
        ):
            _files()

    def test_a_kernel_cache_that_cannot_be_written_fails_the_check(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SERKET_CACHE_DIR", str(tmp_path / "cache"))
        monkeypatch.setattr("actors.kernels.mixture.gibbs.compile_kernels", lambda: None)
        with pytest.raises(
            CheckFailedError, match=f"cannot be cached in {tmp_path}/cache/numba/.*, so every process compiles them"
        ):
            _kernels()
