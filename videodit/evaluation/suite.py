"""The whole evaluation: clips in, `Results` out.

Clips are measured side by side in threads (numpy, OpenCV and torch let go of the interpreter), each as a stream of
frames: what stays of one is its scores, its curves and a vector for distances. All is put in the order of names before
anything is summed, so the same clips give the same numbers in any order and with any number of workers: to the bit,
where networks too run on as many threads (`torch.set_num_threads`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import groupby, islice
from typing import Any

import numpy as np
from tqdm import tqdm

from videodit.evaluation.measure.clip_features import ClipFeatures
from videodit.evaluation.measure.clips import Clip, one_rate, without_ending
from videodit.evaluation.measure.feature_cache import FeatureCache
from videodit.evaluation.measure.feature_metrics import FEATURE_METRICS
from videodit.evaluation.measure.features import FrameFeatures, consistency, text_alignment
from videodit.evaluation.measure.pixels import Undefined
from videodit.evaluation.measure.plan import DISTANCES, Extractors, Plan, extractor_of
from videodit.evaluation.measure.retrieval import recalls
from videodit.evaluation.measure.streaming import follow
from videodit.evaluation.measure.worth import Looks, duplicates
from videodit.evaluation.report.results import ClipResult, Failure, Flag, Moment, Results, Score
from videodit.evaluation.report.statistics import worst
from videodit.evaluation.report.summaries import Circumstances, Vectors, distance, summary
from videodit.video import VideoError

SIDE = 256  # pixels
BATCH = 16  # frames that go to a network together
FROZEN_SECONDS = 0.5  # a clip whose frames repeat for so long, or for half of it, is flagged
STILL_SHARE = 0.9  # of its steps: then it is still, but for a moment


def evaluate(
    clips: Sequence[Clip],
    *,
    reference: Sequence[Clip] = (),
    metrics: Sequence[str] | None = None,
    extractors: Extractors | None = None,
    side: int | None = SIDE,
    resampled: bool = False,
    workers: int = 1,
    cache: FeatureCache | None = None,
    failures: Sequence[Failure] = (),
    settings: Mapping[str, Any] | None = None,
) -> Results:
    """Measures clips, and sums up.

    Args:
        clips: of one frame rate, with different names. Images are clips of one frame: what needs two says so.
        reference: clips that should have come out. Those of the same name (endings aside) are compared frame by frame;
            distances are between the sets.
        metrics: names, or patterns such as "*consistency*"; None: all that can be measured with what is given.
        extractors: networks, see there; None: none.
        side: frames whose shorter side is longer are scaled down to it for measures of pixels; None: never.
        resampled: whether the clips' rates were chosen, rather than their files' own: the protocol says so.
        workers: clips measured at once.
        cache: of what networks see.
        failures: of clips that could not even be opened, to be told along.
        settings: kept with the results.

    Raises:
        ValueError: no clips, names that occur twice, unequal frame rates, a pattern that no measure fits.
    """
    clips, reference = sorted(clips, key=_name), sorted(reference, key=_name)
    fps = _common_rate([*clips, *reference])
    if not clips:
        raise ValueError("there is no clip to measure" + (f"; first: {failures[0].why}" if failures else ""))
    plan = Plan(metrics, extractors or Extractors(), bool(reference))
    look = partial(_look, plan, side, cache or FeatureCache(None))
    partners = _partners(clips, reference)
    with ThreadPoolExecutor(workers) as pool:
        looked = pool.map(look, clips, partners)
        seen = list(tqdm(looked, desc="measuring", total=len(clips), unit="clip", disable=None))
        vectors = pool.map(partial(_vectors_or_failure, plan, cache or FeatureCache(None)), reference)
        others = list(tqdm(vectors, desc="reference", total=len(reference), unit="clip", disable=None))
    good = [one for one in seen if isinstance(one, _Seen)]
    compared = hashlib.sha256(" ".join(sorted(f"{clip.name} {clip.digest}" for clip in reference)).encode())
    around = Circumstances(plan, side, resampled, fps, compared.hexdigest()[:12] if reference else "")
    good = _with_recalls(plan, good)
    same = duplicates([(one.result, one.shown) for one in good])
    results = [_flagged(one.result, "duplicate") if one.result.name in same else one.result for one in good]
    theirs = [one for one in others if not isinstance(one, Failure)]
    broken = [one for one in (*seen, *others) if isinstance(one, Failure)]
    return Results(
        version=version("videodit"),
        settings=dict(settings or {}),
        summaries={name: summary(name, results, around) for name in plan.metrics if name not in DISTANCES},
        distances={
            name: distance(name, [one.vectors for one in good], theirs, around)
            for name in plan.metrics
            if name in DISTANCES
        },
        clips=tuple(results),
        failures=(*failures, *broken),
    )


def _name(clip: Clip) -> str:
    return clip.name


def _common_rate(clips: Sequence[Clip]) -> float | None:
    """The clips' frame rate, None of images alone; a hundredth apart is one (29.97 and 30)."""
    rates = sorted((clip.fps, clip.name) for clip in clips if clip.num_frames > 1)
    if not rates:
        return None
    (slowest, slow), (fastest, fast) = rates[0], rates[-1]
    if not one_rate(slowest, fastest):
        raise ValueError(
            f"{slow} has {slowest:g} frames a second, {fast} {fastest:g}, and scores depend on it: measure all at one "
            f"rate with --fps, {slowest:g} or less"
        )
    return round(rates[len(rates) // 2][0], 3)


def _partners(clips: Sequence[Clip], reference: Sequence[Clip]) -> list[Clip | None]:
    """For each clip the one of the reference that has its name. Raises ValueError for names that occur twice."""
    for which, names in (("clips", [c.name for c in clips]), ("the reference", [c.name for c in reference])):
        if twice := [name for name, times in Counter(names).items() if times > 1]:
            raise ValueError(f"{twice[0]} occurs twice among {which}: names must differ")
    exact = {clip.name: clip for clip in reference}
    times = Counter(without_ending(clip.name) for clip in reference)
    alike = {stem: clip for clip in reference if times[stem := without_ending(clip.name)] == 1}
    return [exact.get(clip.name) or alike.get(without_ending(clip.name)) for clip in clips]


# --- one clip --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Seen:
    result: ClipResult
    vectors: Vectors
    shown: np.ndarray  # what it is told from others by
    found: np.ndarray | None = None  # what it is found by, among all


def _look(plan: Plan, side: int | None, cache: FeatureCache, clip: Clip, partner: Clip | None) -> _Seen | Failure:
    """Everything about one clip, or why it cannot be read to its end."""
    looks = Looks(clip.num_frames)
    try:
        scores = follow([looks.watching(clip.stream(side))], clip.fps or 1.0, plan.streaming, plan.extractors.flow)
        scores |= _paired(plan, side, clip, partner)
        of_frames = partial(_features_once, plan, cache, clip, {})
        scores |= _on_frames(plan, of_frames, clip)
        found = _pooled(of_frames("clip")) if plan.retrieval and clip.prompt is not None else None
        vectors = _vectors(plan, cache, clip)
    except (VideoError, RuntimeError) as error:  # RuntimeError: a network that cannot take it, or memory
        return Failure(name=clip.name, why=" ".join(str(error).split()))
    height, width = clip.size(side)
    result = ClipResult(
        name=clip.name,
        path=clip.path,
        start=clip.start,
        end=clip.end,
        digest=clip.digest,
        prompt=clip.prompt,
        seed=clip.seed,
        num_frames=clip.num_frames,
        fps=clip.fps,
        height=height,
        width=width,
        flags=_flags(looks, scores, clip.fps),
        scores={name: scores[name] for name in plan.metrics if name in scores},
        worst=tuple(_worst(plan, scores, clip.fps)),
    )
    return _Seen(result, vectors, looks.print, found)


def _paired(plan: Plan, side: int | None, clip: Clip, partner: Clip | None) -> dict[str, Score]:
    if not plan.paired:
        return {}
    why = ""
    if partner is None:
        why = "the reference has no clip of this name"
    elif (clip.num_frames, clip.size(side)) != (partner.num_frames, partner.size(side)):
        sizes = ["{} frames of {}x{}".format(one.num_frames, *one.size(side)) for one in (clip, partner)]
        why = f"it has {sizes[0]}, the reference {sizes[1]}"
    else:
        try:
            streams = [clip.stream(side), partner.stream(side)]
            return follow(streams, clip.fps or 1.0, plan.paired, plan.extractors.flow)
        except VideoError as error:
            why = f"of the reference: {error}"
    return {name: Score(value=None, why=why) for name in plan.paired}


def _on_frames(plan: Plan, of_frames: Callable[[str], np.ndarray], clip: Clip) -> dict[str, Score]:
    """Measures on what networks see in each frame."""
    scores = {}
    for name in plan.on_frames:
        try:
            value, curve = _score(plan, name, of_frames(extractor_of(name)), clip)
            scores[name] = Score(value=value, curve=curve)
        except Undefined as error:
            scores[name] = Score(value=None, why=str(error))
    return scores


def _features_once(plan: Plan, cache: FeatureCache, clip: Clip, known: dict[str, np.ndarray], which: str) -> np.ndarray:
    if which not in known:
        known[which] = _features(getattr(plan.extractors, which), cache, clip)
    return known[which]


def _pooled(features: np.ndarray) -> np.ndarray:
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).mean(axis=0, dtype=np.float64)


def _with_recalls(plan: Plan, seen: Sequence[_Seen]) -> list[_Seen]:
    """Those with a prompt, with the places at which prompts and clips find each other among all."""
    if not plan.retrieval:
        return list(seen)
    without = {name: Score(value=None, why="the clip has no prompt") for name in plan.retrieval}
    asked = [one for one in seen if one.found is not None]
    prompts = list(dict.fromkeys(str(one.result.prompt) for one in asked))
    scores: dict[str, dict[str, Score]] = {}
    if asked:
        texts = plan.extractors.clip.text(prompts).astype(np.float64)
        found = recalls(
            [x for one in asked if (x := one.found) is not None],
            texts,
            [prompts.index(str(one.result.prompt)) for one in asked],
        )
        scores = {one.result.name: score for one, score in zip(asked, found, strict=True)}
    return [replace(one, result=_scored(one.result, plan, scores.get(one.result.name, without))) for one in seen]


def _scored(clip: ClipResult, plan: Plan, more: Mapping[str, Score]) -> ClipResult:
    scores = {**clip.scores, **more}
    return clip.model_copy(update={"scores": {name: scores[name] for name in plan.metrics if name in scores}})


def _score(plan: Plan, name: str, features: np.ndarray, clip: Clip) -> tuple[float, tuple[float | None, ...]]:
    if name == "vbench_aesthetic_quality":
        scores = features[:, 0].astype(np.float64)
        return float(scores.mean()), tuple(scores.tolist())
    if name != "clip_text_alignment":
        variant: Any = FEATURE_METRICS[name].variant
        return consistency(features, variant)
    if clip.prompt is None:
        raise Undefined("the clip has no prompt")
    return text_alignment(features, plan.extractors.clip.text([clip.prompt])[0])


def _features(extractor: FrameFeatures, cache: FeatureCache, clip: Clip) -> np.ndarray:
    """n d, of all frames as they are."""

    def compute() -> np.ndarray:
        return np.concatenate([extractor(np.stack(batch)) for batch in _batches(clip.stream(None))])

    who = f"{extractor.name}@{extractor.hash}"
    return cache.get_or(clip.digest, f"{clip.fps:.6g} fps, all", extractor.preprocessing, who, compute)


def _batches(frames: Iterator[np.ndarray]) -> Iterator[list[np.ndarray]]:
    while batch := list(islice(frames, BATCH)):
        yield batch


def _vectors(plan: Plan, cache: FeatureCache, clip: Clip) -> Vectors:
    """A vector of the whole clip by each extractor of them, or why there is none."""
    vectors: Vectors = {}
    for which in dict.fromkeys(plan.distances.values()):
        extractor: ClipFeatures = getattr(plan.extractors, which)
        try:
            vectors[which] = _vector(extractor, cache, clip)
        except Undefined as error:
            vectors[which] = str(error)
    return vectors


def _vector(extractor: ClipFeatures, cache: FeatureCache, clip: Clip) -> np.ndarray:
    wanted = extractor.frame_indices(clip.num_frames)

    def compute() -> np.ndarray:
        frames = islice(clip.stream(None), max(wanted) + 1)
        return extractor(np.stack([frame for index, frame in enumerate(frames) if index in set(wanted)]))

    who = f"{extractor.name}@{extractor.hash}"
    return cache.get_or(clip.digest, f"{clip.fps:.6g} fps, {extractor.sampling}", extractor.preprocessing, who, compute)


def _vectors_or_failure(plan: Plan, cache: FeatureCache, clip: Clip) -> Vectors | Failure:
    try:
        return _vectors(plan, cache, clip)
    except (VideoError, RuntimeError) as error:
        return Failure(name=f"reference {clip.name}", why=str(error))


def _flags(looks: Looks, scores: Mapping[str, Score], fps: float) -> tuple[Flag, ...]:
    flags = list(looks.flags)
    frozen, cuts = (scores.get(name) for name in ("frozen_share", "cuts"))
    if "still" not in flags and frozen is not None and frozen.value is not None:
        runs = [len(list(group)) for value, group in groupby(frozen.curve[1:]) if value]
        if frozen.value >= STILL_SHARE:
            flags.append("still")
        elif max(runs, default=0) >= min(FROZEN_SECONDS * fps, (len(frozen.curve) - 1) / 2):
            flags.append("frozen")
    if cuts is not None and cuts.value:
        flags.append("cut")
    return tuple(flags)


def _flagged(clip: ClipResult, flag: Flag) -> ClipResult:
    return clip.model_copy(update={"flags": (flag, *clip.flags)})


def _worst(plan: Plan, scores: Mapping[str, Score], fps: float) -> Iterator[Moment]:
    """The places where each curve is farthest on the worse side of its own median."""
    for name, score in scores.items():
        for place in worst(score.curve, plan.metrics[name].better):
            time = place.frame / fps if fps else 0.0
            yield Moment(metric=name, frame=place.frame, time=time, value=place.value, z=place.z)
