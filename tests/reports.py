"""Small evaluations to make reports of: clips whose frames carry their own number, and results with every case."""

from collections.abc import Iterable

import numpy as np

from videodit.evaluation.report.results import (
    ClipResult,
    Comparison,
    Difference,
    Distance,
    Failure,
    Flag,
    Metric,
    Moment,
    Protocol,
    Results,
    Score,
    Summary,
)

CONSISTENCY = Metric(
    name="consistency_consecutive",
    title="Frame consistency, consecutive",
    definition="Mean over t of cos(f_t, f_t+1), of frames as vectors of pixels less their own mean.",
    variant="consecutive",
    rewards_stillness=True,
)
WARPING = Metric(
    name="warping_error",
    title="Warping error",
    definition="Mean squared difference between a frame and the one before it moved along the flow, where visible.",
    better="lower",
)
MOTION = Metric(
    name="motion_per_second",
    title="Motion",
    definition="Mean length of the flow a second, in units of the short side.",
    better="neither",
    unit="sides/s",
)
METRICS = (CONSISTENCY, WARPING, MOTION)
HOSTILE = '<img src=x onerror="window.hurt=1"></script><script>window.hurt=2</script> & "quoted"'
STRIP = 12  # rows at the bottom of every frame whose gray level is 15 times the frame's number


def frames_of(clip: ClipResult) -> Iterable[np.ndarray]:
    """A disc on its way over a gradient; its way and colours depend on the name, the strip below on the frame."""
    rng = np.random.default_rng(list(clip.name.encode()))
    height, width = clip.height, clip.width
    y, x = np.mgrid[:height, :width].astype(float)
    colours = rng.uniform(40, 220, (3, 3))
    start, way = rng.uniform(0.3, 0.6, 2), rng.uniform(-0.02, 0.02, 2)
    for i in range(clip.num_frames):
        k = 0 if "still" in clip.flags else i
        broken = "cut" in clip.flags and i >= clip.num_frames // 2
        ramp = (x / width)[..., None] if not broken else (y / height)[..., None]
        frame = colours[0] * ramp + colours[1] * (1 - ramp)
        cy, cx = (start + way * k) * (height, width)
        disc = (y - cy) ** 2 + (x - cx) ** 2 < (0.18 * min(height, width)) ** 2
        frame[disc] = colours[2] if not broken else 255 - colours[2]
        frame[height - STRIP :] = 15 * i
        yield frame.round().astype(np.uint8)


def clip_result(
    name: str,
    consistency: float | None,
    motion: float | None,
    *,
    num_frames: int = 16,
    fps: float = 8,
    size: tuple[int, int] = (64, 64),
    flags: tuple[Flag, ...] = (),
    prompt: str | None = None,
    seed: int | None = 0,
) -> ClipResult:
    """Curves are drawn by chance around the value; the two worst steps of each are its moments."""
    rng = np.random.default_rng(list(name.encode()))
    scores, worst = {}, []
    for metric, value in ((CONSISTENCY, consistency), (WARPING, None if consistency is None else 1 - consistency)):
        if value is None:
            scores[metric.name] = Score(value=None, why="needs two frames")
            continue
        steps = value + 0.01 * rng.standard_normal(num_frames - 1)
        low = [0.1, 0.06] if metric.better == "higher" else [-0.1, -0.06]
        places = rng.choice(np.arange(1, num_frames // 2), 2, replace=False)
        if "cut" in flags:
            places[0], low[0] = num_frames // 2, 6 * low[0]
        steps[places - 1] -= low if "still" not in flags else 0
        scores[metric.name] = Score(value=value, curve=(None, *steps.tolist()))
        for place in places:
            z = float(abs(steps[place - 1] - value) / 0.01)
            worst.append(
                Moment(metric=metric.name, frame=int(place), time=place / fps, value=float(steps[place - 1]), z=z)
            )
    scores[MOTION.name] = Score(value=motion, why="" if motion is not None else "needs two frames")
    return ClipResult(
        name=name,
        digest="0" * 64,
        prompt=prompt,
        seed=seed,
        num_frames=num_frames,
        fps=fps,
        height=size[0],
        width=size[1],
        flags=flags,
        scores=scores,
        worst=tuple(worst),
    )


def results_of(clips: Iterable[ClipResult], *, settings: dict[str, object] | None = None) -> Results:
    clips = tuple(clips)
    return Results(
        version="0.0",
        settings=settings or {},
        summaries={metric.name: _summary(metric, clips) for metric in METRICS},
        clips=clips,
    )


def _summary(metric: Metric, clips: tuple[ClipResult, ...]) -> Summary:
    fair = [c for c in clips if not (metric.rewards_stillness and "still" in c.flags)]
    found = [v for c in fair if metric.name in c.scores and (v := c.scores[metric.name].value) is not None]
    left_out = {"still": len(clips) - len(fair), "without a value": len(fair) - len(found)}
    protocol = Protocol(
        metric=metric.name, variant=metric.variant, features="pixels-centred", sampling="all", n=len(found)
    )
    mean = float(np.mean(found)) if found else None
    return Summary(
        metric=metric,
        status="measured",
        value=mean,
        low=None if mean is None else mean - 0.02,
        high=None if mean is None else mean + 0.015,
        left_out={why: count for why, count in left_out.items() if count},
        protocol=protocol,
        signature=protocol.signature(),
    )


def full_example() -> tuple[Results, Results]:
    """Every case once: still, cut, frozen, one frame, odd size, large, other rate, failure, skipped; a comparison."""
    clips = [
        clip_result("a_red_disc.mp4", 0.97, 0.21, prompt="a red disc drifts over a field at dusk", size=(128, 128)),
        clip_result("jump.mp4", 0.81, 0.55, flags=("cut",), prompt="a dog runs along the beach, then sleeps", seed=3),
        clip_result("still.mp4", 0.9999, 0.0001, flags=("still",), prompt="a mountain", seed=1),
        clip_result("hostile.mp4", 0.92, 0.3, prompt=HOSTILE, seed=2, num_frames=12),
        clip_result("odd.mp4", 0.95, 0.12, size=(65, 83), prompt="an odd little clip", fps=23.976, seed=None),
        clip_result("large.mp4", 0.9, 0.4, size=(300, 540), prompt="a wide view of the sea", fps=12, num_frames=17),
        clip_result("frozen.mp4", 0.985, 0.05, flags=("frozen",), prompt="a bird that stops in mid-air", seed=5),
        clip_result("picture.png", None, None, num_frames=1, prompt="one frame of a lighthouse", seed=7),
    ]
    theirs = [
        clip_result(f"other_{clip.name}", 0.9, 0.33, prompt=clip.prompt, seed=clip.seed, num_frames=11, size=(64, 64))
        for clip in clips[:2]
    ]
    other = results_of(theirs)
    base = results_of(clips, settings={"clips": "runs/new", "resize": "none: as stored", "sampling": "all frames"})
    protocol = Protocol(metric="fd", features="videomae", model_hash="0123456789ab", n=8)
    fd = Metric(
        name="fd_videomae", title="Fréchet distance", definition="Between Gaussians of features.", better="lower"
    )
    skipped = Metric(
        name="clip_text", title="CLIP text alignment", definition="Cosine of image and text.", needs="clip"
    )
    comparison = Comparison(
        other="runs/old",
        paired_by="prompt and seed",
        pairs=tuple((a.name, b.name) for a, b in zip(clips, theirs, strict=False)),
        unpaired=6,
        differences={
            CONSISTENCY.name: Difference(
                metric=CONSISTENCY.name, status="measured", value=0.031, low=0.01, high=0.05, wins=2, p=0.5, n=2
            ),
            WARPING.name: Difference(
                metric=WARPING.name, status="measured", value=0.002, low=-0.01, high=0.01, wins=1, losses=1, p=1, n=2
            ),
            MOTION.name: Difference(metric=MOTION.name, status="skipped", why="fewer than two pairs have it"),
        },
    )
    return base.model_copy(
        update={
            "summaries": base.summaries
            | {
                skipped.name: Summary(
                    metric=skipped,
                    status="skipped",
                    why="no weights: pass clip=openai/clip-vit-base-patch32 or a folder",
                    protocol=Protocol(metric=skipped.name),
                    signature="",
                )
            },
            "distances": {
                fd.name: Distance(
                    metric=fd,
                    status="measured",
                    value=412.5,
                    extrapolated=388.2,
                    n=8,
                    n_reference=8,
                    protocol=protocol,
                    signature=protocol.signature(),
                )
            },
            "failures": (Failure(name="broken.mp4", why="the file ends in the middle of a frame"),),
            "comparison": comparison,
        }
    ), other
