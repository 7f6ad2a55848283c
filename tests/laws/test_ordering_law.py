"""Ordering law: the more a clip is spoiled, the worse it scores in what that spoils; a clip that freezes is flagged.

`python -m tests.ordering_table CLIPS` makes the same table of real clips.
"""

from __future__ import annotations

import numpy as np
import pytest
from corruptions import CORRUPTIONS, parade

from videodit.evaluation.measure.clips import clip_from_array
from videodit.evaluation.measure.measures import MEASURES, measure
from videodit.evaluation.suite import evaluate


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_more_of_a_corruption_is_worse_each_time(name: str, seed: int) -> None:
    corruption = CORRUPTIONS[name]
    clip, other = parade(seed), parade(seed + 100)
    spoiled = [corruption(clip, strength, other) for strength in corruption.strengths]
    scores = [measure(frames, 16, corruption.worsens) for frames in spoiled]
    for metric in corruption.worsens:
        values = np.array([score[metric].value for score in scores], dtype=float)
        worse = np.diff(values) * (-1 if MEASURES[metric].metric.better == "higher" else 1)
        assert (worse > 0).all(), (metric, values)


@pytest.mark.slow
def test_a_clip_that_freezes_is_flagged_and_never_gains_by_it() -> None:
    freeze = CORRUPTIONS["freeze"]
    clips = [clip_from_array(freeze(parade(0), s, parade(1)), 16, name=str(s)) for s in freeze.strengths]
    results = evaluate(clips, metrics=["consistency_consecutive"])
    assert [clip.flags for clip in results.clips] == [(), (), ("frozen",), ("frozen",), ("still",)]
    values = [clip.scores["consistency_consecutive"].value for clip in results.clips]
    assert values == sorted(values, key=float)  # consistency alone would crown the still clip
    assert values[-1] == pytest.approx(1)
    assert results.summaries["consistency_consecutive"].value == pytest.approx(np.mean(values[:-1], dtype=float))
