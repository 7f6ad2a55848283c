"""The docs: no dead link, a notebook that runs, and a site that builds without warnings."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LOG.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)
NOTEBOOK = ROOT / "docs" / "first_model.ipynb"
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|<(?:a|img)[^>]+(?:href|src)=\"([^\"]+)\"")


def anchors(text: str) -> set[str]:
    """Of a page's headings, as GitHub and the site name them: lower case, spaces to hyphens, signs left out."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def dead_links(page: Path, text: str) -> Iterator[str]:
    """Relative links of a page that lead to no file, or to no heading of it."""
    for found in LINK.finditer(CODE.sub("", text)):
        place, _, heading = (found[1] or found[2]).partition("#")
        if re.match(r"[a-z]+:", place):
            continue
        file = (page.parent / place).resolve() if place else page
        if not file.exists():
            yield f"{page.name}: {place}"
        elif heading and heading not in anchors(text if file == page else file.read_text(encoding="utf-8")):
            yield f"{page.name}: {place}#{heading}"


def cells() -> list[dict]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_link_is_dead(page: Path) -> None:
    assert list(dead_links(page, page.read_text(encoding="utf-8"))) == []


def test_no_link_of_the_notebook_is_dead() -> None:
    told = "\n".join("".join(cell["source"]) for cell in cells() if cell["cell_type"] == "markdown")
    assert list(dead_links(NOTEBOOK, told)) == []


def test_the_search_for_dead_links_sees_what_it_should(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("# A Title, with `signs`\n```\n# no title\n```\n")
    text = (
        "# Here\n[1](b.md) [2](b.md#a-title-with-signs) [3](#here) [4](https://example.org/x) `[5](gone.md)`\n"
        "[6](gone.md) [7](b.md#no-title) [8](#there) ![9](gone.png)\n```\n[10](gone.md)\n```\n"
    )
    (tmp_path / "a.md").write_text(text)
    assert list(dead_links(tmp_path / "a.md", text)) == [
        "a.md: gone.md",
        "a.md: b.md#no-title",
        "a.md: #there",
        "a.md: gone.png",
    ]


def test_pages_carry_nothing_of_a_terminal() -> None:
    """No prompts or answers of a shell where a reader is to type, and no paths of somebody's machine."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"^(\$ |% |>>> |\w+@[\w-]+[:~])", text, re.MULTILINE), page
        assert not re.search(r"/(home|root|Users)/", text), page
        assert "\x1b" not in text


def test_the_notebook_is_code_that_can_be_read_and_its_outputs_are_small() -> None:
    for cell in cells():
        if cell["cell_type"] == "code":
            ast.parse("".join(cell["source"]))
    assert NOTEBOOK.stat().st_size < 200_000
    assert not re.search(r"/(tmp|home|root)/", NOTEBOOK.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    book = nbformat.read(NOTEBOOK, as_version=4)
    for many, few in (('"steps": 300', '"steps": 20'), ("num_inference_steps=20", "num_inference_steps=4")):
        (cell,) = (one for one in book.cells if one.cell_type == "code" and many in one.source)
        cell.source = cell.source.replace(many, few)  # each cell is run; how well it learns is the reader's to see
    nbclient.NotebookClient(
        book, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    outputs = [one for cell in book.cells if cell.cell_type == "code" for one in cell.outputs]
    assert not [one for one in outputs if one.output_type == "error"]
    assert sum("image/gif" in one.get("data", {}) for one in outputs) == 2
    said = [one.text for one in outputs if one.get("name") == "stderr"]
    assert not [text for text in said if "arning" in text]


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    assert "mkdocs build --strict\n" in (ROOT / "Makefile").read_text()  # mkdocs counts no warnings by --quiet
    words = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--site-dir",
        str(tmp_path / "site"),
    ]  # as `make docs`
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # of what follows the theme, some day
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=quiet)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    for page in ("index", "data/index", "tiny/index", "first_model/index", "api/index"):
        assert (tmp_path / "site" / f"{page}.html").is_file()
    api = (tmp_path / "site/api/index.html").read_text(encoding="utf-8")
    assert 'id="videodit.pipeline.pipeline.VideoDiTPipeline' in api
    assert "Flow matching" in (tmp_path / "site/first_model/index.html").read_text(encoding="utf-8")
