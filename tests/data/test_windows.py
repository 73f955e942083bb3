"""Which frames make a clip."""

from collections import Counter

import numpy as np
import pytest

from latte_ms.data.windows import choose_frames, frames_needed


def test_stride_is_exact_and_every_window_is_equally_likely():
    rng = np.random.default_rng(0)
    starts = Counter()
    for _ in range(4000):
        frames = choose_frames(length=12, num_frames=4, interval=3, spacing="stride", rng=rng)
        assert np.diff(frames).tolist() == [3, 3, 3]
        starts[int(frames[0])] += 1
    # 12 - 10 + 1 places; the last one, which ends with the last frame, among them.
    assert sorted(starts) == [0, 1, 2]
    assert min(starts.values()) > 1200


def test_linspace_spreads_over_the_window_as_upstream():
    frames = choose_frames(48, 16, 3, "linspace", None)
    assert frames.tolist() == [0, 3, 6, 9, 12, 15, 18, 21, 25, 28, 31, 34, 37, 40, 43, 47]
    rng = np.random.default_rng(0)
    assert {int(choose_frames(50, 16, 3, "linspace", rng)[-1]) for _ in range(50)} == {47, 48, 49}


def test_linspace_takes_a_short_video_whole():
    assert choose_frames(20, 16, 3, "linspace", None)[[0, -1]].tolist() == [0, 19]


def test_evaluation_takes_the_middle():
    assert choose_frames(14, 4, 3, "stride", None).tolist() == [2, 5, 8, 11]
    assert choose_frames(10, 4, 3, "stride", None).tolist() == [0, 3, 6, 9]


@pytest.mark.parametrize(("spacing", "needed"), [("stride", 10), ("linspace", 4)])
def test_the_least_length_works_and_one_less_does_not(spacing: str, needed: int):
    assert frames_needed(4, 3, spacing) == needed
    frames = choose_frames(needed, 4, 3, spacing, np.random.default_rng(0))
    assert frames[-1] == needed - 1
    with pytest.raises(ValueError, match=rf"`length` \(={needed - 1}\) must be at least {needed}"):
        choose_frames(needed - 1, 4, 3, spacing, None)
