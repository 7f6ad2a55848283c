"""What the site shows beside the pages of docs/, made when it is built: README, the notebook, code, and the API.

All of it stays readable where it lies; here links are turned to where the site has it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
MOVED = {**PAGES, "docs/": "", "first_model.ipynb": "first_model.md", "tiny.py": "tiny.md"}
API = {  # what the public surface is, room by room
    "The pipeline": [
        "videodit.pipeline.pipeline.VideoDiTPipeline",
        "videodit.pipeline.parts.Parts",
        "videodit.long.long_clip",
    ],
    "The model": [
        "videodit.models.transformer.VideoDiT",
        "videodit.models.block.DiTBlock",
        "videodit.models.extended.TimeExtended",
        "videodit.extending.extend_in_time",
        "videodit.models.growth.grow",
        "videodit.models.formats.files.from_diffusers",
        "videodit.models.branches.load_control",
        "videodit.models.branches.save_control",
        "videodit.models.time_blocks.load_time_blocks",
        "videodit.models.time_blocks.save_time_blocks",
    ],
    "Pixels and words": ["videodit.codec.codec.VideoCodec", "videodit.text.encoder.TextEncoder"],
    "Video files": [
        "videodit.video.reader.probe",
        "videodit.video.reader.read_clip",
        "videodit.video.reader.read_frames",
        "videodit.video.reader.stream_frames",
        "videodit.video.writer.write_video",
    ],
    "Evaluation": ["videodit.evaluation.suite.evaluate"],
}


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are made here."""
    made = {place: (ROOT / name).read_text(encoding="utf-8") for name, place in PAGES.items()}
    made["first_model.md"] = notebook(json.loads((ROOT / "docs/first_model.ipynb").read_text(encoding="utf-8")))
    made["tiny.md"] = (
        f"# The method on one page\n\n```python\n{(ROOT / 'docs/tiny.py').read_text(encoding='utf-8')}```\n"
    )
    made["api.md"] = "# Python\n\n" + "\n\n".join(
        f"## {room}\n\n" + "\n\n".join(f"::: {name}\n    options: {{heading_level: 3}}" for name in names)
        for room, names in API.items()
    )
    for place, text in made.items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turns links that hold in the repository to where the site has what they lead to."""

    def turned(found: re.Match[str]) -> str:
        place = found[2].removeprefix("../")
        for old, new in MOVED.items():
            if place.startswith(old):
                place = new + place.removeprefix(old)
        return f"{found[1]}({place}{found[3] or ''})"

    return re.sub(r"(\[[^\]]*\])\(((?!\w+:|#)[^)#\s]+)(#[^)\s]*)?\)", turned, markdown)


def notebook(book: dict[str, Any]) -> str:
    """A notebook as Markdown: its texts, its code, and what that printed and showed."""
    parts = []
    for cell in book["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            shown = output.get("data", {})
            if "image/gif" in shown:
                picture = "".join(shown["image/gif"]).replace("\n", "")
                width = output.get("metadata", {}).get("image/gif", {}).get("width", "")
                parts.append(f'<img alt="clips" width="{width}" src="data:image/gif;base64,{picture}">')
            elif said := "".join(output.get("text", shown.get("text/plain", ""))):
                parts.append(f"```text\n{said.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"
