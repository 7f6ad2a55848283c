"""Says what is installed, what this machine can do, what is wrong, and the fix.

  videodit doctor

A line each: `ok`, `--` for a part that is not there and need not be, `!!` for what has to be mended. Exit status 2
where something that is needed is broken, 0 where only optional parts are missing.
"""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from shutil import disk_usage
from typing import NamedTuple

from packaging.requirements import Requirement

from videodit.command import command, hide_torchao, import_torchao
from videodit.packaged import PACKAGED
from videodit.terminal import Parser, shown

OK, MISSING, WRONG = "ok", "--", "!!"
MODULES = {  # where a module is not called as its package
    "pyyaml": "yaml",
    "pillow": "PIL",
    "opencv-python-headless": "cv2",
    "scenedetect-headless": "scenedetect",
}
PATIENCE = 300  # seconds to import all packages, which takes five where nothing else runs
FOR_DEVELOPERS = ("dev", "docs")


class Finding(NamedTuple):
    mark: str
    what: str
    said: str


@command
def main() -> int:
    Parser(__doc__).parse_args()
    found = list(findings())
    width = max(len(one.what) for _, one in found)
    heading = ""
    for above, one in found:
        if above != heading:
            heading = above
            print(f"\n{heading}")
        print(f"  {one.mark}  {one.what:{width}}  {shown(one.said)}")
    wrong = sum(one.mark == WRONG for _, one in found)
    print(f"\n{wrong} to mend, marked {WRONG}" if wrong else "\nall that is needed is there")
    return 2 if wrong else 0


def findings() -> Iterator[tuple[str, Finding]]:
    """What was found, each under its heading."""
    needed, optional = requirements()
    wanted = [one for many in (needed, *optional.values()) for one in many if installed(one.name)]
    broken = imported(dict.fromkeys(module_of(one) for one in wanted))
    yield "needed", python()
    yield from (("needed", package(one, broken)) for one in needed)
    yield "needed", packaged_models()
    for probe in (cpu, gpu, memory):
        yield "this machine", guarded(probe, broken)
    yield from (("folders", folder(name, place)) for name, place in folders())
    for extra, parts in optional.items():
        yield "optional parts", optional_part(extra, parts, broken)


def requirements() -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """What the package needs here, and by extra what each would add."""
    needed, optional = [], defaultdict(list)
    for line in metadata.requires("videodit") or []:
        one = Requirement(line)
        if one.marker is None or one.marker.evaluate({"extra": ""}):
            needed.append(one)
            continue
        for extra in metadata.metadata("videodit").get_all("Provides-Extra") or []:
            if extra not in FOR_DEVELOPERS and one.marker.evaluate({"extra": extra}):
                optional[extra].append(one)
    return needed, optional


def installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def module_of(one: Requirement) -> str:
    return MODULES.get(one.name.lower(), one.name.replace("-", "_"))


def imported(modules: dict[str, None]) -> dict[str, str]:
    """Of these modules those that cannot be imported, and why.

    In another process, since a library built for another machine ends the one that imports it; then what is left is
    tried in the next.
    """
    left = list(modules)
    broken: dict[str, str] = {}
    while left:
        words = [sys.executable, "-c", "from videodit.commands.doctor import tell; tell()", *left]
        here = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        try:
            done = subprocess.run(words, capture_output=True, text=True, env=here, timeout=PATIENCE)
            said, ended = done.stdout, f"ends the process that imports it (status {done.returncode})"
        except subprocess.TimeoutExpired as late:
            said = (late.stdout or b"").decode(errors="replace")
            ended = f"is not imported within {PATIENCE} s"
        told = [line.split("\t", 2)[1:] for line in said.splitlines() if line.startswith("probed\t")]
        broken |= {name: why for name, why in told if why}
        left = left[len(told) :]
        if left:
            broken[left.pop(0)] = ended
    return broken


def tell() -> None:
    """Imports the modules named by the process's words and says of each, on a line, why it cannot be imported."""
    hide_torchao()  # which diffusers would import
    for name in sys.argv[1:]:
        why = ""
        try:
            if name == "torchao":
                import_torchao()
            importlib.import_module(name)
        except BaseException as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"\nprobed\t{name}\t{why}", flush=True)


def python() -> Finding:
    asked = metadata.metadata("videodit")["Requires-Python"] or ""
    here = platform.python_version()
    if not Requirement(f"python{asked}").specifier.contains(here, prereleases=True):
        return Finding(WRONG, "python", f"{here}: videodit needs {asked}")
    return Finding(OK, "python", f"{here}, {platform.platform(terse=True)} on {platform.machine()}")


def package(one: Requirement, broken: dict[str, str]) -> Finding:
    """Whether a package is there, of a version that fits, and can be imported."""
    version, line = installed(one.name), f'pip install "{one.name}{one.specifier}"'
    if version is None:
        return Finding(WRONG, one.name, f"is not installed: {line}")
    if not one.specifier.contains(version, prereleases=True):
        return Finding(WRONG, one.name, f"{version} does not fit: {line}")
    if module_of(one) in broken:
        again = f"pip install --force-reinstall --no-deps {one.name}=={version.partition('+')[0]}"
        return Finding(WRONG, one.name, f"{version} cannot be imported ({broken[module_of(one)]}): {again}")
    return Finding(OK, one.name, version)


def optional_part(extra: str, parts: list[Requirement], broken: dict[str, str]) -> Finding:
    """An extra: there, or what installs it, or why what is installed does not work."""
    found = [package(one, broken) for one in parts]
    if not parts:
        return Finding(MISSING, extra, "is not for this machine")
    if all(installed(one.name) is None for one in parts) or any("not installed" in one.said for one in found):
        return Finding(MISSING, extra, f'pip install "videodit[{extra}]"')
    wrong = [f"{one.what} {one.said}" for one in found if one.mark == WRONG]
    return Finding(MISSING if wrong else OK, extra, "; ".join(wrong or [f"{one.what} {one.said}" for one in found]))


def packaged_models() -> Finding:
    wanted = [
        Path("model_index.json"),
        *(Path(part, "diffusion_pytorch_model.safetensors") for part in ("transformer", "vae")),
    ]
    files = [folder / file for folder in PACKAGED.values() for file in wanted]
    lacking = [file for file in files if not file.is_file() or not file.stat().st_size]
    if lacking:
        return Finding(WRONG, "packaged model", f"{lacking[0]}: is not there; pip install --force-reinstall videodit")
    return Finding(OK, "packaged model", ", ".join(map(str, PACKAGED.values())))


def guarded(probe: Callable[[], Finding], broken: dict[str, str]) -> Finding:
    """A probe that needs torch, where there is one; what fails in it is told."""
    name = probe.__name__
    if "torch" in broken or installed("torch") is None:
        return Finding(MISSING, name, "unknown without torch")
    try:
        return probe()
    except Exception as error:
        return Finding(MISSING, name, f"unknown: {type(error).__name__}: {error}")


def cpu() -> Finding:
    import torch

    from videodit.training.precision import lacks_bfloat16

    slow = lacks_bfloat16(torch.device("cpu"))
    said = "no bfloat16 (emulated, very slowly): take float32" if slow else "bfloat16"
    return Finding(OK, "cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} of them used; {said}")


def gpu() -> Finding:
    """Each accelerator has to compute something: a driver may be too old for the torch that finds it."""
    import torch

    if not torch.accelerator.is_available():
        built = torch.version.cuda or torch.version.hip
        if Path("/proc/driver/nvidia").exists() and not built:
            return Finding(MISSING, "gpu", f"there is one, but torch {torch.__version__} is built for CPUs alone")
        return Finding(MISSING, "gpu", "torch finds none" if built else f"none for torch {torch.__version__}")
    device = torch.accelerator.current_accelerator()
    assert device is not None
    try:
        torch.ones(8, 8, device=device).mm(torch.ones(8, 8, device=device)).sum().item()
    except RuntimeError as error:
        return Finding(
            WRONG, "gpu", f"{device.type} does not compute ({str(error).splitlines()[0]}): update its driver"
        )
    name = torch.cuda.get_device_name() if device.type == "cuda" else device.type
    size = f", {torch.cuda.mem_get_info()[1] / 1e9:.0f} GB" if device.type == "cuda" else ""
    half = ", bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else ""
    return Finding(OK, "gpu", f"{torch.accelerator.device_count()} x {name}{size}{half}")


def memory() -> Finding:
    import psutil

    here = psutil.virtual_memory()
    return Finding(OK, "memory", f"{here.total / 1e9:.1f} GB, {here.available / 1e9:.1f} free")


def folders() -> Iterator[tuple[str, Path]]:
    """Where this package and those under it keep files, by name."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    hub = Path(os.environ.get("HF_HOME") or home / "huggingface").expanduser()
    yield "remote files", Path("~/.cache/videodit").expanduser()
    yield "hub models", Path(os.environ.get("HF_HUB_CACHE") or hub / "hub").expanduser()
    yield "temporary", Path(tempfile.gettempdir())


def folder(name: str, place: Path) -> Finding:
    """Whether files can be written there, or it can be made."""
    there = next(one for one in (place, *place.absolute().parents) if one.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            return Finding(OK, name, f"{place}, {disk_usage(there).free / 1e9:.1f} GB free")
    except OSError as error:
        variable = {"hub models": "HF_HOME", "temporary": "TMPDIR"}.get(name, "data.cache")
        return Finding(WRONG, name, f"{place}: cannot be written ({error.strerror}): name another by {variable}")
