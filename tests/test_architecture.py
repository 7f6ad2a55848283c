"""The floors of the house: imports point down only. And what no file may do, since a model folder is not a program."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {
    **dict.fromkeys(("config", "geometry", "terminal", "disk", "drawing", "packaged"), 0),
    **dict.fromkeys(("weights", "command"), 0.5),
    **dict.fromkeys(("video", "shapes", "emoji", "codec", "text", "diffusion", "models"), 1),
    **dict.fromkeys(("data", "evaluation", "given", "conditions", "caching", "memory"), 2),
    "controls": 2.5,
    "pipeline": 3,
    **dict.fromkeys(("long", "pruning", "attention_maps", "describing"), 3.5),
    **dict.fromkeys(("training", "exchange", "extending", "clipset", "scaling"), 4),
    "app": 4.5,
    "commands": 5,
    "__main__": 5.5,
    "tools": 6,
}
PUBLIC_SURFACE = "the public surface"  # `from videodit import VideoDiT`: everything at once, so for commands only
MOST_LINES = 400  # of a file: beyond, there are usually two rooms
NO_ROOM = {"__init__.py", "__pycache__", "shipped"}  # shipped/ is data: the packaged model


def files_of(root: Path) -> Iterator[tuple[str, Path]]:
    """(room, file) for every Python file of the package and the tools."""
    for path in sorted((root / "videodit").iterdir()):
        if path.name not in NO_ROOM and (path.is_dir() or path.suffix == ".py"):
            yield from ((path.stem, file) for file in sorted(path.rglob("*.py") if path.is_dir() else [path]))
    yield from (("tools", file) for file in sorted((root / "tools").rglob("*.py")))


def rooms_imported(file: Path, root: Path) -> Iterator[tuple[int, str]]:
    """(line, room) of every import, at whatever depth, of the package or the tools."""
    folder = file.relative_to(root).parts[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        modules: list[tuple[str, ...]] = []
        if isinstance(node, ast.Import):
            modules = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            modules = [(*base, alias.name) for alias in node.names]
        for top, *rest in modules:
            if top == "tools":
                yield node.lineno, "tools"
            elif top == "videodit":
                yield node.lineno, rest[0] if rest and rest[0] in FLOORS else PUBLIC_SURFACE


def wrong_imports(root: Path) -> list[str]:
    found = []
    for room, file in files_of(root):
        where = file.relative_to(root)
        if room not in FLOORS:
            found.append(f"{where}: {room!r} has no floor; give it one in CONTRIBUTING.md and in {Path(__file__).name}")
            continue
        for line, other in rooms_imported(file, root):
            floor = FLOORS["commands"] - 0.5 if other == PUBLIC_SURFACE else FLOORS[other]
            if other != room and floor >= FLOORS[room]:
                found.append(f"{where}:{line}: {room} (floor {FLOORS[room]}) imports {other} (floor {floor:g})")
    return found


def map_of_rooms(text: str) -> dict[str, float]:
    """The floor of each room, by its name, on the map under the heading "Rooms" of CONTRIBUTING.md."""
    drawn = text.partition("\n## Rooms\n")[2].partition("```\n")[2].partition("```")[0]
    rows = [line.split(maxsplit=2)[:2] for line in drawn.splitlines() if line.strip()]
    return {name.removesuffix("/").removesuffix(".py"): float(floor) for floor, name in rows}


def wrong_on_the_map(root: Path, text: str) -> list[str]:
    """Rooms that the map lacks, has on another floor than FLOORS, or has though they are not there."""
    drawn, rooms = map_of_rooms(text), {room for room, _ in files_of(root)}
    found = [f"{room}: not on the map of CONTRIBUTING.md" for room in sorted(rooms - set(drawn))]
    found += [f"{room}: on the map of CONTRIBUTING.md, but not there" for room in sorted(set(drawn) - rooms)]
    both = sorted(rooms & set(drawn) & set(FLOORS))
    return found + [f"{room}: floor {drawn[room]:g} on the map" for room in both if drawn[room] != FLOORS[room]]


def too_long(root: Path) -> list[str]:
    """Python files of more lines than MOST_LINES."""
    files = [file for folder in ("videodit", "tools", "tests") for file in sorted((root / folder).rglob("*.py"))]
    counts = {file.relative_to(root): len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    return [f"{file}: {count} lines; split it into rooms" for file, count in counts.items() if count > MOST_LINES]


def dangerous_calls(file: Path) -> list[str]:
    """Ways to run code from data: `eval` and `exec`, unpickling, unsafe YAML, code from a model's folder."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        for name in _dangers(node):
            found.append(f"{file.name}:{getattr(node, 'lineno', 0)}: {name}")
    return found


def _dangers(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        if names == ["pickle"] and [alias.name for alias in node.names] == ["UnpicklingError"]:
            names = []  # the name of what went wrong runs nothing
        yield from (name for name in names if name.split(".")[0] in ("pickle", "dill", "cloudpickle", "joblib"))
        if isinstance(node, ast.ImportFrom):
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name for name in full if name in ("torch.load", "yaml.load", "yaml.unsafe_load"))
    if isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if called in ("eval", "exec", "builtins.eval", "builtins.exec", "yaml.load", "yaml.unsafe_load"):
            yield f"{called}("
        if called == "torch.load" and given.get("weights_only") != "True":
            yield "torch.load without weights_only=True"
        yield from (f"{key}=True" for key in ("trust_remote_code", "allow_pickle") if given.get(key) == "True")


@pytest.mark.slow
def test_imports_point_down_only():
    assert wrong_imports(ROOT) == []


def test_every_room_is_on_the_map_and_on_its_floor():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert wrong_on_the_map(ROOT, text) == []
    assert map_of_rooms(text)["pipeline"] == FLOORS["pipeline"]


@pytest.mark.parametrize(
    ("rows", "wrong"),
    [
        ("3  pipeline.py  makes clips\n6  tools/  parse", []),
        ("3  pipeline.py\n\n6  tools/", []),
        ("6  tools/  parse", ["pipeline: not on the map of CONTRIBUTING.md"]),
        ("2  pipeline/  makes clips\n6  tools/  parse", ["pipeline: floor 2 on the map"]),
        ("3  pipeline/\n6  tools/\n1  gone/  x", ["gone: on the map of CONTRIBUTING.md, but not there"]),
    ],
)
def test_the_map_is_read_as_it_stands(tmp_path, rows, wrong):
    for file in ("videodit/pipeline.py", "tools/train.py"):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).write_text("")
    assert wrong_on_the_map(tmp_path, f"# x\n\n## Rooms\nWords.\n\n```\n{rows}\n```\nMore ```code```\n") == wrong


def test_no_file_is_longer_than_a_room():
    assert too_long(ROOT) == []


@pytest.mark.parametrize(("lines", "is_wrong"), [(400, False), (401, True)])
@pytest.mark.parametrize("folder", ["videodit/data", "tools", "tests/data"])
def test_the_count_of_lines_sees_what_it_should(tmp_path, folder, lines, is_wrong):
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "a.py").write_text("\n" * lines)
    assert bool(too_long(tmp_path)) == is_wrong


@pytest.mark.slow
def test_no_file_runs_code_from_data():
    files = [*(ROOT / "videodit").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]
    assert files
    assert [found for file in files for found in dangerous_calls(file)] == []


@pytest.mark.parametrize(
    ("file", "line", "is_wrong"),
    [
        ("videodit/video/reader.py", "import videodit.geometry", False),
        ("videodit/video/reader.py", "from videodit.video.writer import x", False),
        ("videodit/video/reader.py", "from .writer import x", False),
        ("videodit/video/reader.py", "from ..geometry import ClipSize", False),
        ("videodit/video/reader.py", "from . import writer", False),
        ("videodit/video/reader.py", "from videodit.data import manifest", True),
        ("videodit/video/reader.py", "from ..data import manifest", True),
        ("videodit/video/reader.py", "def f():\n    from videodit import codec", True),
        ("videodit/video/reader.py", "from videodit import VideoDiT", True),
        ("videodit/video/reader.py", "import videodit", True),
        ("videodit/video/reader.py", "from .. import VideoDiT", True),
        ("videodit/config.py", "from videodit.geometry import ClipSize", True),
        ("videodit/pipeline.py", "from videodit.models.transformer import VideoDiT", False),
        ("videodit/training/loop.py", "import videodit.pipeline, videodit.data.manifest", False),
        ("videodit/training/loop.py", "import tools.train", True),
        ("videodit/evaluation/report.py", "from videodit.data.manifest import Item", True),
        ("tools/train.py", "from videodit import VideoDiT\nfrom tools.common import x", False),
        ("videodit/utils.py", "import os", True),
        ("videodit/helpers/misc.py", "import os", True),
        ("videodit/__init__.py", "from videodit.training import loop", False),
        ("videodit/shipped/pipeline.py", "from videodit import VideoDiTPipeline", False),
    ],
)
def test_the_walk_sees_what_it_should(tmp_path, file, line, is_wrong):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / "videodit").mkdir(exist_ok=True)
    (tmp_path / file).write_text(line)
    assert bool(wrong_imports(tmp_path)) == is_wrong


@pytest.mark.parametrize(
    ("line", "is_wrong"),
    [
        ("model.eval()", False),
        ("cursor.exec('x')", False),
        ("'eval(x)'", False),
        ("eval('x')", True),
        ("exec('x')", True),
        ("yaml.safe_load(f)", False),
        ("yaml.load(f, Loader=L)", True),
        ("import pickle", True),
        ("from pickle import loads", True),
        ("torch.load(f, weights_only=True)", False),
        ("torch.load(f)", True),
        ("torch.load(f, weights_only=False)", True),
        ("from torch import load", True),
        ("from_pretrained(x, trust_remote_code=True)", True),
        ("from_pretrained(x, trust_remote_code=False)", False),
        ("numpy.load(f, allow_pickle=True)", True),
    ],
)
def test_the_search_for_dangerous_calls_sees_what_it_should(tmp_path, line, is_wrong):
    (tmp_path / "a.py").write_text(line)
    assert bool(dangerous_calls(tmp_path / "a.py")) == is_wrong
