"""Fréchet distances of moving-shapes videos: exact on known sets, larger for wrong videos."""

import numpy as np
import pytest

from examples.moving_shapes.distance import Features, distance, distances, features
from examples.moving_shapes.shapes import Clip, draw_clip


def clips(seed: int, count: int = 5) -> list[Clip]:
    return [
        draw_clip(label, np.random.default_rng([seed, label, i]), spread=0.2)
        for label in range(8)
        for i in range(count)
    ]


def described(videos: list[np.ndarray]) -> list[Features]:
    found = [features(frames) for frames in videos]
    assert None not in found
    return [one for one in found if one is not None]


def test_the_distance_is_that_of_covariances_over_one_less() -> None:
    """(a - b)^2 for standard deviations a and b, in every direction of a rotated space."""
    rows = np.random.default_rng(0).standard_normal((50, 2))
    whitened = (rows - rows.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(rows.T))).T
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    narrow, wide = whitened * [1.0, 2.0] @ turn, whitened * [4.0, 2.5] @ turn
    assert distance(narrow, wide) == pytest.approx(9.0 + 0.25, rel=1e-6)


def test_the_features_of_a_clip_are_what_it_was_drawn_with() -> None:
    clip = draw_clip(0, np.random.default_rng(3), spread=0.2)
    (found,) = described([clip.frames])
    ends = np.concatenate([clip.centres[0], clip.centres[-1]]) / 9.0
    np.testing.assert_allclose(found.motion[:4], ends, atol=0.05)
    assert found.motion[4] < 0.02
    assert np.ptp(found.appearance[3:6]) < 0.2, "the background is gray"
    assert found.appearance[7] < 0.1, "the colour stays"


def test_sets_of_real_clips_are_near_each_other_and_spoilt_ones_are_not() -> None:
    real, others = (described([clip.frames for clip in clips(seed)]) for seed in (1, 2))
    drawn = [clip.frames for clip in clips(2)]
    backward = described([frames[::-1] for frames in drawn[: len(drawn) // 4]])
    dark = described([frames // 2 for frames in drawn])
    near = distances(real, others)
    assert distances(real, backward)["motion"] > 2 * near["motion"]
    assert distances(real, dark)["appearance"] > 2 * near["appearance"]


def test_a_video_without_a_shape_has_no_features() -> None:
    assert features(np.full((16, 64, 64, 3), 120, np.uint8)) is None
