"""`data`: clips of 16 frames at 8 a second, scaled to cover 256 x 256, from random places of long files.

Each file is opened anew, as training does: with this package's reader (all its checks on: which frames there are, that
each is the one asked for, damage), and with bare decord and bare PyAV, which check nothing. Each row gives the median
over rounds, and its ratio to the fastest bare one. Before that, one process reads 20,000 clips, and says how much
memory it held before and after.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
from tqdm import tqdm

from videodit.commands.benchmarks.turns import ratio, take_turns
from videodit.config.kinds import Count, File, Positive, argument
from videodit.geometry import covering
from videodit.video import VIDEO_SUFFIXES, VideoError, probe, read_clip, write_video
from videodit.video.guarded import Guarded

FRAMES, FPS, SIDE = 16, 8.0, 256
Job = tuple[str, float]  # a file, and the second at which its clip begins


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--videos", type=argument(File), help="a video or a folder of them; without, three are generated"
    )
    parser.add_argument("--rounds", type=argument(Positive), default=7, help="times that each reader has its turn")
    parser.add_argument("--clips", type=argument(Positive), default=6, help="clips of a turn")
    parser.add_argument("--reads", type=argument(Count), default=20000, help="of the test of memory; 0: leave it out")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measures, and prints as it goes. VideoError: no usable video, or a reader shows other frames."""
    videos, clips = args.videos, args.clips
    found: dict[str, Any] = {"what": "data", "cores": os.cpu_count(), "speed": []}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        if args.reads:  # first: what a process has freed could hide what it leaks
            found["memory"] = memory_of_reads(Path(scratch), args.reads)
        files = generate(Path(scratch)) if videos is None else videos_of(videos)
        rng = np.random.default_rng(0)
        lengths = {file: probe(file).duration for file in files}
        usable = [file for file in files if lengths[file] > (FRAMES + 1) / FPS]
        if not usable:
            raise VideoError(f"{videos}: no video there is longer than {(FRAMES + 1) / FPS:g} s")

        def draw() -> list[Job]:
            picked = [usable[i] for i in rng.integers(len(usable), size=clips)]
            return [(str(file), float(rng.random()) * (lengths[file] - (FRAMES + 1) / FPS)) for file in picked]

        agree(draw())
        for title, readers in (("on one core", one_core()), ("on all cores", all_cores(stack))):
            found["speed"].append({"title": title, "rows": compare(title, readers, draw, args.rounds, clips)})
    return found


def generate(folder: Path) -> list[Path]:
    """Three videos of ten seconds, 720p at 30 frames a second, H.264 with B-frames: a window over a large picture."""
    files = []
    for number in tqdm(range(3), desc="generating", leave=False):
        rng = np.random.default_rng(number)
        coarse = rng.integers(0, 256, (60, 160, 3)).astype(np.float32)
        picture = coarse.repeat(24, axis=0).repeat(24, axis=1) + rng.normal(0, 6, (1440, 3840, 3))
        picture = picture.clip(0, 255).astype(np.uint8)

        def frames(picture: np.ndarray = picture) -> Iterator[np.ndarray]:
            for n in range(300):
                top, left = 360 + int(300 * np.sin(n / 20)), 8 * n
                yield picture[top : top + 720, left : left + 1280]

        files.append(write_video(folder / f"{number}.mp4", frames(), 30, crf=23))
    return files


def videos_of(path: Path) -> list[Path]:
    """A video, or those of a folder at any depth."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in VIDEO_SUFFIXES)


# ----------------------------------------------------------------------------------------------------------- readers


def ours(job: Job) -> np.ndarray:
    return read_clip(job[0], FRAMES, FPS, start=job[1], cover=(SIDE, SIDE))


def bare_decord(job: Job, threads: int = 1) -> np.ndarray:
    import decord

    height, width = size_of(job[0])
    reader = decord.VideoReader(job[0], width=width, height=height, num_threads=threads)
    rate = reader.get_avg_fps()
    return reader.get_batch([int((job[1] + i / FPS) * rate) for i in range(FRAMES)]).asnumpy()


def bare_decord_threads(job: Job) -> np.ndarray:
    return bare_decord(job, threads=0)


def bare_pyav(job: Job, threads: str = "SLICE", count: int = 1) -> np.ndarray:
    height, width = size_of(job[0])
    with av.open(job[0]) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = threads, count
        base = stream.time_base or Fraction(1, 1000)
        container.seek(int(job[1] / base), stream=stream)
        shown: list[np.ndarray] = []
        before = None
        for frame in container.decode(stream):
            time = float((frame.pts or 0) * base)
            while before is not None and len(shown) < FRAMES and time > job[1] + len(shown) / FPS:
                shown.append(before.reformat(width, height, "rgb24").to_ndarray())
            if len(shown) == FRAMES:
                break
            before = frame
    return np.stack(shown)


def bare_pyav_threads(job: Job) -> np.ndarray:
    return bare_pyav(job, threads="AUTO", count=0)


SIZES: dict[str, tuple[int, int]] = {}  # asked for once: bare readers are told


def size_of(path: str) -> tuple[int, int]:
    if path not in SIZES:
        with av.open(path) as container:
            stream = container.streams.video[0]
            SIZES[path] = covering(stream.height, stream.width, SIDE, SIDE)
    return SIZES[path]


Reader = Callable[[Sequence[Job]], Any]


def one_core() -> dict[str, Reader]:
    def in_turn(read: Callable[[Job], np.ndarray]) -> Reader:
        return lambda jobs: [read(job) for job in jobs]

    readers = {"videodit": in_turn(ours), "bare PyAV": in_turn(bare_pyav)}
    return readers | ({"bare decord": in_turn(bare_decord)} if has_decord() else {})


def all_cores(stack: ExitStack) -> dict[str, Reader]:
    """Ours as training uses it: in guarded processes. The others with threads of their own, and in a process a core."""
    cores = os.cpu_count() or 1
    guarded = stack.enter_context(Guarded(cores))
    threads = stack.enter_context(ThreadPoolExecutor(cores))
    pool = stack.enter_context(ProcessPoolExecutor(cores, mp_context=get_context("spawn")))

    def ours_guarded(jobs: Sequence[Job]) -> list[np.ndarray]:
        def read(job: Job) -> np.ndarray:
            return guarded.call(read_clip, job[0], FRAMES, FPS, start=job[1], cover=(SIDE, SIDE))

        return list(threads.map(read, jobs))

    readers: dict[str, Reader] = {
        f"videodit, {cores} guarded processes": ours_guarded,
        "bare PyAV, its threads": lambda jobs: [bare_pyav_threads(job) for job in jobs],
        f"bare PyAV, {cores} processes": lambda jobs: list(pool.map(bare_pyav, jobs)),
    }
    if has_decord():
        readers["bare decord, its threads"] = lambda jobs: [bare_decord_threads(job) for job in jobs]
        readers[f"bare decord, {cores} processes"] = lambda jobs: list(pool.map(bare_decord, jobs))
    return readers


def has_decord() -> bool:
    try:
        import decord  # noqa: F401
    except ImportError:
        return False
    return True


# --------------------------------------------------------------------------------------------------------- measuring


def agree(jobs: Sequence[Job]) -> None:
    """The readers show the same: pictures differ by scaling alone."""
    for job in jobs:
        reference = ours(job).astype(int)
        others: list[Callable[[Job], np.ndarray]] = [bare_pyav]
        if has_decord():
            others.append(bare_decord)
        for read in others:
            off = float(np.abs(read(job).astype(int) - reference).mean())
            if off > 6:
                raise VideoError(f"{job[0]} at {job[1]:.3f} s: a bare reader shows other frames ({off:.1f} levels off)")


def compare(
    title: str, readers: dict[str, Reader], draw: Callable[[], list[Job]], rounds: int, clips: int
) -> list[dict[str, Any]]:
    """Clips a second of each reader; the first is ours."""
    took = take_turns(readers, rounds, draw=lambda: (draw(),), title=title)
    rates = {name: [clips / seconds for seconds in each] for name, each in took.items()}
    best = max(list(readers)[1:], key=lambda name: statistics.median(rates[name]))
    print(f"\n{title}: clips a second, {FRAMES} frames at {FPS:g} a second covering {SIDE} x {SIDE}")
    rows = []
    for name in readers:
        faster = ratio(rates[name], rates[best])
        row = {"name": name, "clips_per_second": statistics.median(rates[name]), "ratio": faster}
        spread = f"{min(rates[name]):.2f} to {max(rates[name]):.2f}"
        print(f"  {name:32}{row['clips_per_second']:7.2f}  ({spread:>14})  {row['ratio']:.2f} x {best}")
        rows.append(row | {"rates": rates[name]})
    return rows


def memory_of_reads(folder: Path, reads: int) -> dict[str, float]:
    """Resident memory of this process before and after reading many clips of several kinds."""
    frames = np.random.default_rng(0).integers(0, 256, (17, 64, 96, 3), dtype=np.uint8)
    files = [write_video(folder / f"small{suffix}", frames, 8) for suffix in (".mp4", ".mkv", ".gif")]
    process = psutil.Process()

    def read(number: int) -> None:
        read_clip(files[number % 3], 4, 8.0, start=number % 8 / 8, cover=(48, 48))

    for number in range(300):  # what is loaded once
        read(number)
    before = process.memory_info().rss / 1e6
    for number in tqdm(range(reads), desc="reading", leave=False):
        read(number)
    after = process.memory_info().rss / 1e6
    print(f"{reads} reads in one process: resident memory {before:.1f} MB at the start, {after:.1f} MB at the end")
    return {"reads": reads, "rss_start_mb": before, "rss_end_mb": after}
