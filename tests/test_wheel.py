"""What `pip install` of a wheel gives: commands that work from any folder, without the clone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

pytest.importorskip("setuptools", minversion="77")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
OUTSIDE = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}


def run(*words: object, where: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, cwd=where, env=OUTSIDE)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "videodit", source / "videodit", ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
    done = run(sys.executable, "-c", build, where=source)
    assert done.returncode == 0, done.stderr
    (found,) = (source / "dist").glob("*.whl")
    return found


def those_of_extras() -> Iterator[str]:
    """What packages that only an extra brings have put beside the others: modules, libraries, facts."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    needed = {Requirement(line).name for line in project["dependencies"]}
    extras = [Requirement(line).name for name, lines in project["optional-dependencies"].items() for line in lines]
    for name in {*extras} - needed - {"videodit"}:
        with suppress(metadata.PackageNotFoundError):
            yield from {file.parts[0] for file in metadata.files(name) or []} - {"..", "__pycache__"}


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel in it and what it needs, but none of the extras: `bin/videodit`."""
    place = tmp_path_factory.mktemp("installed")
    venv.create(place / "env", with_pip=False)
    names = {"base": str(place / "env"), "platbase": str(place / "env")}
    packages, extras = Path(sysconfig.get_path("purelib", vars=names)), set(those_of_extras())
    for one in Path(sysconfig.get_path("purelib")).iterdir():
        if one.name not in extras and one.suffix != ".pth" and "videodit" not in one.name:
            (packages / one.name).symlink_to(one)
    python = place / "env" / "bin" / "python"
    install = ("install", "-q", "--no-deps", "--no-index", "--force-reinstall", wheel)
    done = run(sys.executable, "-m", "pip", "--python", python, *install, where=place)
    assert done.returncode == 0, done.stderr
    return place


def test_it_holds_the_package_and_its_data_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    assert {name.split("/")[0].split("-")[0] for name in names} == {"videodit"}
    lacking = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "videodit").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".md"
    } - names
    assert lacking == set()


def test_an_index_would_take_it(wheel: Path) -> None:
    pytest.importorskip("twine")
    done = run(sys.executable, "-m", "twine", "check", "--strict", wheel, where=wheel.parent)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_prompt_becomes_a_clip_that_is_measured(elsewhere: Path) -> None:
    door = elsewhere / "env" / "bin" / "videodit"
    where = run(elsewhere / "env/bin/python", "-c", "import videodit; print(videodit.__file__)", where=elsewhere)
    assert Path(where.stdout.strip()).is_relative_to(elsewhere)
    made = run(door, "sample", "--prompt", "dog face", "--steps", 2, "--out", "clip.mp4", where=elsewhere)
    assert (made.returncode, made.stdout) == (0, "clip.mp4\n"), made.stderr
    measured = run(door, "evaluate", "clip.mp4", "--out", "report", where=elsewhere)
    assert measured.returncode == 0, measured.stderr
    assert (elsewhere / "report" / "report.html").stat().st_size
    well = run(door, "doctor", where=elsewhere)
    assert (well.returncode, well.stderr) == (0, "")
    assert str(elsewhere) in well.stdout
    assert 'pip install "videodit[lora]"' in well.stdout  # none of the extras is there


def test_a_wrong_argument_answers_before_anything_heavy_is_imported(elsewhere: Path) -> None:
    words = ("-X", "importtime", "-m", "videodit", "sample", "--steps", "x")
    done = run(elsewhere / "env" / "bin" / "python", *words, where=elsewhere)
    assert done.returncode == 2
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "videodit.config.kinds" in imported
    assert not imported & {"torch", "diffusers", "transformers", "accelerate", "numpy", "av"}
    assert done.stderr.splitlines()[-1].startswith("videodit sample: --steps x must be")


def test_what_needs_an_extra_names_it(elsewhere: Path) -> None:
    (elsewhere / "lora").mkdir()
    door = elsewhere / "env" / "bin" / "videodit"
    for extra, words in {
        "lora": ("sample", "--prompt", "a red circle", "--lora", "lora", "--out", "lora.mp4"),
        "prepare": ("prepare", "lora", "--out", "clips"),
        "app": ("app", "--out", "page"),
    }.items():
        done = run(door, *words, where=elsewhere)
        assert done.returncode == 2
        assert re.search(rf"pip install [\"']videodit\[{extra}\][\"']$", done.stderr.splitlines()[-1]), done.stderr
