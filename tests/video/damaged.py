"""Damaged and hostile files, made by a seed from small numbered clips, and what the reader makes of each.

    python -m tests.video.damaged OUT --seed 0          # writes the files, reads each, prints a table

Every file is read as a training run reads it: in a process of its own, with limits on time and memory. What comes back
is compared with the sound clip that the file was made from (`OUTCOMES`).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from .damage.bombs import endless, huge_canvases
from .damage.headers import absurd_edits, absurd_matroska, absurd_mp4, absurd_pictures
from .damage.sound import Made, Sound, make_sound
from .damage.streams import joined_streams, jumping_stamps, wrong_endings
from .damage.wear import worn_files
from .readings import Damaged, read_all, table


def make(folder: Path, seed: int = 0, every: int = 1, *, costly: bool = True) -> list[Damaged]:
    """Writes the corpus, the same for a seed: sound files into `folder/sound`, damaged ones into `folder`.

    Args:
        every: of the cheap ones one in so many, drawn once.
        costly: those that take long to make or to read, and odd places, too.
    """
    sound, rng = make_sound(folder / "sound"), np.random.default_rng(seed)
    wanted = [one for maker in CHEAP for one in maker(sound, rng)]
    drawn = np.random.default_rng(0).permutation(len(wanted))[: len(wanted) // every]
    wanted = [wanted[i] for i in sorted(drawn)]
    if costly:
        wanted += [one for maker in COSTLY for one in maker(sound, rng)]
    made = [Damaged(f"sound/{name}", "none", name) for name in sound]
    for damage, suffix, content, source in wanted:
        name = "".join(c if c.isalnum() else "_" for c in f"{damage} {Path(source).stem}").strip("_")
        made.append(Damaged(f"{len(made):03d}_{name}{suffix}", damage.partition(":")[0], source))
        (folder / made[-1].file).write_bytes(content)
    return made + (odd_places(folder, sound) if costly else [])


def odd_places(folder: Path, sound: Sound) -> list[Damaged]:
    """What is no file, though its name says so; and sound files whose names FFmpeg could read as something else."""
    (folder / "folder.mp4").mkdir(exist_ok=True)
    for name, target in {"loop.mp4": "loop.mp4", "nothing.mp4": "nowhere.mp4", "zeros.mp4": "/dev/zero"}.items():
        (folder / name).symlink_to(target)
    for name in ("pipe.mp4", "pipe.gif"):
        os.mkfifo(folder / name)  # nobody writes into it
    places = ("folder.mp4", "loop.mp4", "nothing.mp4", "zeros.mp4", "pipe.mp4", "pipe.gif")
    names = ("%03d.mp4", "concat:a|b.mp4", "-i.mp4", "new\nline.mp4", "na\u00efve \U0001f3ac.mp4", "\udcff.mp4")
    for name in names:
        (folder / name).write_bytes(sound["faststart.mp4"].read_bytes())
    return [*(Damaged(n, "no file", "") for n in places), *(Damaged(n, "odd name", "faststart.mp4") for n in names)]


def own_peak() -> int:
    """Resident bytes of this process at most. `getrusage` would count those of whoever started it, before it was."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


Maker = Callable[[Sound, np.random.Generator], Made]
CHEAP: tuple[Maker, ...] = (
    *(worn_files, absurd_mp4, absurd_edits, absurd_matroska, absurd_pictures, jumping_stamps),
    wrong_endings,
)
COSTLY: tuple[Maker, ...] = (joined_streams, huge_canvases, endless)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="an empty folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--every", type=int, default=1, help="of the cheap ones one in so many, drawn once (default: all)"
    )
    parser.add_argument("--report", type=Path, help="a JSON file to write what came of each file to")
    options = parser.parse_args()
    made = make(options.out, options.seed, options.every)
    begin = time.monotonic()
    readings = read_all(options.out, made)
    found = {
        "seconds": time.monotonic() - begin,
        "longest": max(reading.seconds for reading in readings),
        "child_gb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9,
        "own_gb": own_peak() / 1e9,
    }
    print(table(readings))
    print(", ".join(f"{name} {value:.2f}" for name, value in found.items()))
    if options.report:
        options.report.write_text(json.dumps({**found, "readings": [asdict(reading) for reading in readings]}))


if __name__ == "__main__":
    main()
