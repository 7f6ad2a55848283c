"""The models that come in the package, and where a model lies that somebody names."""

from __future__ import annotations

from pathlib import Path

SHIPPED = Path(__file__).parent / "shipped"
# the pipeline folder of each packaged model, by its name; the first is meant where none is named
PACKAGED = {name: SHIPPED / name for name in ("emoji", "shapes")}
DEFAULT = next(iter(PACKAGED))


def named_folder(name: str) -> str:
    """Where a saved model lies: the packaged one for "shipped" or, where no folder of its name is here, for the name of
    one; else the folder or hub name itself.

    Raises:
        FileNotFoundError: it is a path, to nothing.
    """
    known = PACKAGED | {"shipped": PACKAGED[DEFAULT]}
    if name == "shipped" or (not Path(name).exists() and name in known):
        return str(known[name])
    if not Path(name).exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise FileNotFoundError(f"{name}: there is no such file or folder, and it is no name on the hub")
    return name


def is_quantized(model: str | None) -> bool:
    """Whether the weights in a model's folder were quantized before they were saved."""
    config = Path(model or "", "transformer", "config.json")
    return config.is_file() and "quantization_config" in config.read_text(encoding="utf-8")
