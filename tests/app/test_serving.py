"""What is served: the page and the named folders, to those who ask by this machine's name, and nothing else."""

from __future__ import annotations

import http.client
import importlib.util
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from videodit.app.serving import bound, reports_in
from videodit.disk import LOCK


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    from videodit.commands import app

    monkeypatch.setattr(sys, "argv", ["videodit app", *words])
    try:
        return app.main()
    except SystemExit as end:  # of its parser
        return int(str(end.code or 0))


def seem_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told before Gradio is needed is told where there is none, too."""
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: sys if name == "gradio" else found(name, *more))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def address(tiny_pipe: Any, folders: Path) -> Iterator[str]:
    pytest.importorskip("gradio", reason='Gradio is not installed: pip install "videodit[app]"')
    from served import served

    from videodit.app.studio import Studio

    studio = Studio(folders / "out", ["tiny"], lambda model: tiny_pipe)
    (folders / "secret.txt").write_text("secret")
    (folders / "out/link.txt").symlink_to(folders / "secret.txt")
    (folders / "out/kept.txt").write_text("kept")
    (folders / "evaluated").mkdir()
    (folders / "evaluated/report.html").write_text("a report")
    (folders / "evaluated/results.json").write_text("secret")
    with served(studio, [folders / "evaluated"], folders / "scratch") as address:
        yield address
    studio.close()


def asked(address: str, path: str, **headers: str) -> tuple[int, bytes]:
    """The answer to a path that nobody has tidied."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    connection.putrequest("GET", path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read()


@pytest.mark.slow
def test_the_named_folders_are_served(address: str) -> None:
    assert asked(address, "/")[0] == 200
    assert asked(address, "/clips/kept.txt") == (200, b"kept")
    assert asked(address, "/reports/0") == (200, b"a report")


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [
        "/clips/../secret.txt",
        "/clips/%2e%2e/secret.txt",
        "/clips/link.txt",
        "/clips/{folders}/secret.txt",
        "/clips//{folders}/secret.txt",
        "/copies/..%2fsecret.txt",
        "/copies/secret.txt",
        "/reports/1",
        "/reports/-1",
        "/reports/results.json",
        "/gradio_api/file={folders}/secret.txt",
        "/gradio_api/file={folders}/out/../secret.txt",
        "/gradio_api/file={folders}/evaluated/results.json",
        "/gradio_api/file=/etc/hostname",
        "/gradio_api/file=README.md",
        "/file={folders}/secret.txt",
    ],
)
def test_nothing_else_is(path: str, address: str, folders: Path) -> None:
    status, said = asked(address, path.format(folders=folders))
    assert status in (400, 403, 404, 405, 422)
    assert b"secret" not in said or b"secret.txt" in said


@pytest.mark.slow
def test_a_name_from_elsewhere_that_points_here_is_refused(address: str) -> None:
    assert asked(address, "/", Host="evil.example")[0] == 400
    assert asked(address, "/clips/kept.txt", Host="evil.example")[0] == 400
    assert asked(address, "/clips/kept.txt", Host="localhost:80")[0] == 200


@pytest.mark.slow
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1"])
def test_a_page_of_another_site_is_answered_nothing(origin: str, address: str) -> None:
    assert asked(address, "/clips/kept.txt", Origin=origin)[0] == 403
    assert asked(address, "/gradio_api/queue/join", Origin=origin)[0] == 403
    assert asked(address, "/clips/kept.txt", Origin=address) == (200, b"kept")


def test_a_busy_port_is_one_line_with_its_fix(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    seem_installed(monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(monkeypatch, "--port", str(port), "--out", str(tmp_path / "out")) == 2
        assert capsys.readouterr().err == (
            f"videodit app: --port {port}: cannot be had at 127.0.0.1 (Address already in use); give another, or 0 for "
            "any\n"
        )
        with pytest.raises(ValueError, match=f"--port {port}"):
            bound("127.0.0.1", port)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="--host nowhere"):
        bound("nowhere.invalid", 0)


def test_a_missing_extra_says_which_and_help_needs_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)  # so Python is told that there is no such module
    assert run(monkeypatch) == 2
    assert capsys.readouterr().err == 'videodit app: the page needs Gradio: pip install "videodit[app]"\n'
    assert run(monkeypatch, "--help") == 0
    assert "pip" not in capsys.readouterr().err
    assert run(monkeypatch, "--port", "many") == 2
    assert "--port many must be a valid integer; --help" in capsys.readouterr().err


def test_a_model_or_report_that_is_none_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    seem_installed(monkeypatch)
    words = ("--port", "0", "--out", str(tmp_path / "out"))
    assert run(monkeypatch, "--model", str(tmp_path / "none"), *words) == 2
    assert f"{tmp_path / 'none'}: there is no such file or folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run(monkeypatch, "--model", str(tmp_path / "empty"), *words) == 2
    assert str(tmp_path / "empty") in capsys.readouterr().err
    (tmp_path / "out" / LOCK).write_text(f'[["{socket.gethostname()}", 1, {psutil.Process(1).create_time()}]]')
    assert run(monkeypatch, *words) == 2  # another page has the folder
    assert "another run writes there, process 1" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"no report\.html"):
        reports_in([tmp_path])
