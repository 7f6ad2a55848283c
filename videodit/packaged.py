"""The models that come in the package, and where a model lies that somebody names."""

from __future__ import annotations

from pathlib import Path

SHIPPED = Path(__file__).parent / "shipped"  # a pipeline folder for each packaged model
DEFAULT = "shapes"  # which of them is meant where none is named


def packaged() -> list[str]:
    """Names of the packaged models, the default first."""
    names = sorted(index.parent.name for index in SHIPPED.glob("*/model_index.json"))
    return sorted(names, key=lambda name: name != DEFAULT)


def named_folder(name: str) -> str:
    """Where a saved model lies: the packaged one for "shipped" or, where no folder of its name is here, for the name of
    one; else the folder or hub name itself.

    Raises:
        FileNotFoundError: it is a path, to nothing.
    """
    if name == "shipped" or (not Path(name).exists() and name in packaged()):
        return str(SHIPPED / (DEFAULT if name == "shipped" else name))
    if not Path(name).exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise FileNotFoundError(f"{name}: there is no such file or folder, and it is no name on the hub")
    return name
