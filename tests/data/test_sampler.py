"""The epoch law: every sample is shown as often as any other, whatever the buckets; and all hangs on a number."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videodit.data.sampler import Sampler
from videodit.geometry import ClipSize

SIZES = [ClipSize(f, h, w, fps) for f, fps in ((1, 8), (5, 8), (9, 4)) for h, w in ((32, 32), (32, 48))]


@st.composite
def samplers(draw: st.DrawFn) -> Sampler:
    sizes = draw(st.lists(st.sampled_from(SIZES), min_size=1, max_size=60))
    batch = {size: draw(st.integers(1, 9)) for shown in sizes for size in (shown, shown.image())}
    share, repeat = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])), draw(st.integers(1, 3))
    return Sampler(sizes, batch, image_share=share, repeat=repeat, seed=draw(st.integers(0, 5)))


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(samplers(), st.integers(0, 4))
def test_epoch_law_every_sample_is_shown_once_an_epoch(sampler: Sampler, epoch: int) -> None:
    steps = range(epoch * sampler.steps_per_epoch, (epoch + 1) * sampler.steps_per_epoch)
    plans = [sampler[step] for step in steps]
    seen = Counter(int(number) for plan in plans for number in plan.samples)
    members = {number: size for size, numbers in sampler._members.items() for number in numbers}
    assert seen == Counter(dict.fromkeys(members, sampler.repeat))
    for plan in plans:
        assert 1 <= len(plan.samples) <= sampler.batch_sizes[plan.size]
        assert all(plan.size in (members[int(n)], members[int(n)].image()) for n in plan.samples)
    assert Counter(plan.size for plan in plans) == sampler.batches
    shown: Counter = Counter()
    for plan in plans:
        shown[plan.size] += len(plan.samples)
    assert dict(shown) == sampler.counts


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(samplers())
def test_a_batch_is_known_by_its_number_alone(sampler: Sampler) -> None:
    other = Sampler(
        [size for _, size in sorted((n, s) for s, numbers in sampler._members.items() for n in numbers)],
        sampler.batch_sizes,
        image_share=sampler.image_share,
        repeat=sampler.repeat,
        seed=sampler.seed,
    )
    numbers = np.random.default_rng(0).integers(0, 3 * sampler.steps_per_epoch, 12)
    forward = {int(n): other[int(n)] for n in sorted(numbers)}
    for number in map(int, numbers):
        size, samples = sampler[number]
        assert size == forward[number].size
        assert np.array_equal(samples, forward[number].samples)


def test_epochs_differ_and_so_do_seeds() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = Sampler([SIZES[2]] * 64, {SIZES[2]: 64, SIZES[2].image(): 64}, seed=seed)
        return sampler[epoch].samples.tolist()

    assert len({tuple(order(seed, epoch)) for seed in range(2) for epoch in range(3)}) == 6


def test_images_are_the_stated_share_of_each_bucket_and_other_clips_each_epoch() -> None:
    clip = ClipSize(5, 32, 32, 8)
    sampler = Sampler([clip] * 50, {clip: 10, clip.image(): 10}, image_share=0.2)
    assert sampler.counts == {clip.image(): 10, clip: 40}
    images = [
        {
            int(n)
            for step in range(5 * e, 5 * e + 5)
            if sampler[step].size == clip.image()
            for n in sampler[step].samples
        }
        for e in range(3)
    ]
    assert [len(epoch) for epoch in images] == [10] * 3
    assert images[0] != images[1]


def test_batches_of_a_bucket_are_as_equal_as_can_be() -> None:
    clip = SIZES[2]
    sampler = Sampler([clip] * 11, {clip: 4, clip.image(): 4})
    assert sorted(len(sampler[i].samples) for i in range(sampler.steps_per_epoch)) == [3, 4, 4]


def test_no_samples_are_an_error() -> None:
    with pytest.raises(ValueError, match="no samples"):
        Sampler([], {})
