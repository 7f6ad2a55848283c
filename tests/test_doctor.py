"""`videodit doctor` tells what is wrong and the fix: status 2 where something needed is broken, 0 where extras lack."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from readme import tool

from videodit.commands import doctor

FEW = [Requirement("einops>=0.8"), Requirement("pyyaml>=6")]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[Requirement]:
    """The package as if it needed few others, none of them slow to import."""
    needed = list(FEW)
    monkeypatch.setattr(doctor, "requirements", lambda: (needed, {"lora": [Requirement("no-such-peft>=1")]}))
    monkeypatch.setattr(doctor, "guarded", lambda probe, broken: doctor.Finding(doctor.OK, probe.__name__, ""))
    return needed


def test_where_extras_alone_lack_all_is_well(few: list[Requirement], capsys: pytest.CaptureFixture[str]) -> None:
    assert tool("doctor") == 0
    said = capsys.readouterr().out
    assert f"ok  einops          {metadata.version('einops')}" in said
    assert '--  lora            pip install "videodit[lora]"' in said
    assert said.endswith("\nall that is needed is there\n")


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        ("einops>=99", 'does not fit: pip install "einops>=99"'),
        ("no-such-einops>=1", 'is not installed: pip install "no-such-einops>=1"'),
    ],
)
def test_a_version_out_of_bounds_and_a_package_that_lacks(
    needs: str, said: str, few: list[Requirement], capsys: pytest.CaptureFixture[str]
) -> None:
    few.append(Requirement(needs))
    assert tool("doctor") == 2
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  !!"))
    assert needs.partition(">")[0] in line
    assert said in line


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("raise OSError('libgone.so: no such file')", "OSError: libgone.so: no such file"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "(status -4)"),
        ("raise SystemExit", "SystemExit:"),
    ],
)
def test_a_package_that_cannot_be_imported_even_one_that_ends_the_process(
    body: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: list[Requirement]
) -> None:
    (tmp_path / "einops.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    found = {one.what: one for _, one in doctor.findings()}
    assert found["einops"].mark == doctor.WRONG
    assert why in found["einops"].said
    assert "pip install --force-reinstall --no-deps einops==" in found["einops"].said
    assert found["pyyaml"].mark == doctor.OK  # those behind it are tried all the same


def test_an_optional_part_that_is_broken_is_told_and_needs_no_mending(monkeypatch: pytest.MonkeyPatch) -> None:
    one = doctor.optional_part("lora", [Requirement("einops")], {"einops": "ImportError: no"})
    assert one.mark == doctor.MISSING
    assert "ImportError: no" in one.said


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HF_HOME", str(tmp_path / "file"))
    found = {name: doctor.folder(name, place) for name, place in doctor.folders()}
    assert found["hub models"].mark == doctor.WRONG
    assert str(tmp_path / "file") in found["hub models"].said
    assert "HF_HOME" in found["hub models"].said
    assert not (tmp_path / "file" / "hub").exists()
    monkeypatch.setenv("HF_HOME", str(tmp_path / "new"))
    found = {name: doctor.folder(name, place) for name, place in doctor.folders()}
    assert found["hub models"].mark == doctor.OK
    assert not (tmp_path / "new").exists()  # looking makes nothing


def test_a_probe_that_fails_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def gpu() -> doctor.Finding:
        raise RuntimeError("driver")

    assert doctor.guarded(gpu, {}) == (doctor.MISSING, "gpu", "unknown: RuntimeError: driver")
    assert doctor.guarded(gpu, {"torch": "ImportError"}).said == "unknown without torch"


def test_what_is_read_of_the_package_is_what_it_says_of_itself() -> None:
    needed, optional = doctor.requirements()
    assert {"torch", "diffusers", "transformers"} <= {one.name for one in needed}
    assert [one.name for one in optional["lora"]] == ["peft"]
    assert not set(optional) & set(doctor.FOR_DEVELOPERS)


@pytest.mark.slow
def test_this_environment_is_well(capfd: pytest.CaptureFixture[str]) -> None:
    """What it imports is imported in another process; its door is that of `test_wheel.py`."""
    assert tool("doctor") == 0
    said, complained = capfd.readouterr()
    assert complained == ""
    assert f"ok  torch           {metadata.version('torch')}" in said
