"""The token: who makes it, who can read it, and what is said where there is none; and what the doctor looks at."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

import actors.kernels.mixture.gibbs  # noqa: F401 (kernels keep the cache directory of when they are imported)
from runner.cli.doctor import UnwellError, _files, _kernels, _token
from runner.cluster.auth import TokenError, credential, private_token, token_fault
from runner.cluster.connection import ClusterError, _looked_at


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
    def test_one_is_made_for_its_owner_alone_and_stays(self, token: Path) -> None:
        private_token(make=True)
        made = token.read_text()
        private_token(make=True)
        assert (len(made), mode(token), token.read_text()) == (64, 0o600, made)

    def test_nobody_sees_one_that_is_not_whole(self, token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Another run makes it in the same moment."""
        link = Path.hardlink_to
        monkeypatch.setattr(Path, "hardlink_to", lambda path, part: path.write_text("theirs") and link(path, part))
        private_token(make=True)
        assert token.read_text() == "theirs"
        assert [path.name for path in token.parent.iterdir()] == ["token"]

    def test_one_that_all_can_read_is_told_and_closed(self, token: Path) -> None:
        private_token(make=True)
        token.chmod(0o644)
        assert token_fault() == (
            f"{token} has mode 0644: others can read the token; say chmod 600 {token}, and, where other people use "
            "this machine, replace it on every machine that has it"
        )
        private_token(make=False)
        assert (token_fault(), mode(token)) == ("", 0o600)

    @pytest.mark.parametrize("content", [None, ""])
    def test_who_joins_without_one_is_told_where_it_belongs(self, token: Path, content: str | None) -> None:
        token.parent.mkdir()
        if content is not None:
            token.write_text(content)
        with pytest.raises(TokenError, match=f"^{token} holds no token; copy the cluster's there, mode 0600, or name"):
            private_token(make=False)

    def test_where_none_can_be_kept_another_file_is_asked_for(self, token: Path) -> None:
        token.parent.write_text("a file in the way")
        with pytest.raises(
            TokenError, match=r"no token can be kept there \(.*\); name another file by RAY_AUTH_TOKEN_PATH"
        ):
            private_token(make=True)

    def test_who_asks_for_none_needs_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        private_token(make=False)
        assert credential() == "no token (RAY_AUTH_MODE is disabled)"


class TestAddress:
    @pytest.mark.parametrize(
        ("address", "said"),
        [
            ("ray://127.0.0.1:10001", "that is a door for Ray's client"),
            ("127.0.0.1", "an address is HOST:PORT"),
            ("127.0.0.1:x", "an address is HOST:PORT"),
            ("127.0.0.1:1", "nobody listens there"),
        ],
    )
    def test_where_no_run_can_go(self, address: str, said: str) -> None:
        with pytest.raises(ClusterError, match=f"^no Ray cluster could be reached at {address}: {said}"):
            _looked_at(address)

    @pytest.mark.parametrize(
        ("noted", "said"),
        [
            ("127.0.0.1:1", "nobody listens at 127.0.0.1:1, which Ray was last started on"),
            (None, "no Ray runs on this"),
        ],
    )
    def test_a_cluster_that_is_gone_is_not_found(
        self, monkeypatch: pytest.MonkeyPatch, noted: str | None, said: str
    ) -> None:
        def found(_address: str) -> str:
            if noted is None:
                raise ConnectionError
            return noted

        monkeypatch.setattr("runner.cluster.connection.canonicalize_bootstrap_address", found)
        with pytest.raises(ClusterError, match=f"^no Ray cluster could be reached at auto: {said}"):
            _looked_at("auto")


class TestDoctor:
    def test_how_ray_spells_its_mode_does_not_matter(self, token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAY_AUTH_MODE", "TOKEN")
        assert _token() == f"token authentication, with the token of {token}, which the first run makes"
        private_token(make=True)
        assert _token() == f"token authentication, with the token of {token}, mode 0600"

    def test_no_tokens_at_all_are_wrong(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        with pytest.raises(UnwellError, match=r"RAY_AUTH_MODE is disabled: .* say RAY_AUTH_MODE=token"):
            _token()

    @pytest.mark.parametrize("open_one", ["runs", "runs/digits", "runs/digits/checkpoints"])
    def test_directories_into_which_everybody_can_write_are_wrong(self, open_one: str) -> None:
        Path("runs/digits/checkpoints").mkdir(parents=True)
        assert _files() == "runs/ is not open to everybody's writing"
        Path(open_one).chmod(0o777)
        with pytest.raises(UnwellError, match=f"{open_one} can be written by everybody on this machine; say chmod o-w"):
            _files()

    def test_kernels_that_cannot_be_kept_are_wrong(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SERKET_CACHE_DIR", str(tmp_path / "kept"))
        monkeypatch.setattr("actors.kernels.mixture.gibbs.compile_kernels", lambda: None)
        with pytest.raises(
            UnwellError, match=f"cannot be kept in {tmp_path}/kept/numba/.*: every process compiles them"
        ):
            _kernels()
