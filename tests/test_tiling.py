"""Tiles cover a tomogram once, places come out where they went in, and overlapping particles give way to better ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from triptych.fourier import resample_to_shape
from triptych.io.readers import cut_box
from triptych.tiling import CELL, Cutout, clear_labels, find_centres, label_voxels, overlap, paint, plan_tiles, suppress, widen
from triptych.volume import Volume

SHAPES = st.tuples(*[st.integers(5, 60)] * 3)
RATIOS = st.sampled_from([0.8, 1.0, 1.31, 2.0])


@given(shape=SHAPES, ratio=RATIOS, size=st.integers(8, 40), margin=st.integers(0, 12))
def test_tiles_answer_for_every_voxel_once_and_see_a_margin(shape: tuple[int, int, int], ratio: float, size: int, margin: int) -> None:
    seen = np.zeros(shape, dtype=int)
    for row in plan_tiles(shape, ratio, size, margin):
        assert len({(tile.start[1], tile.stop[1]) for tile in row}) == 1
        for tile in row:
            seen[tuple(slice(a, b) for a, b in zip(tile.start, tile.stop, strict=True))] += 1
            for axis in range(3):
                assert tile.shape[axis] % 8 == 0
                inside = tile.indices(axis)
                assert inside.min() >= min(margin, 1)
                assert inside.max() <= tile.shape[axis] - margin
                # a voxel's nearest index lies at most half a voxel of the model's away from it
                at = np.zeros((len(inside), 3), dtype=int)
                at[:, axis] = inside
                assert np.abs(tile.places(at)[:, axis] - np.arange(tile.start[axis], tile.stop[axis])).max() <= 0.5 * ratio + 1e-9
    assert (seen == 1).all()


@pytest.mark.parametrize("size", [8, 20, 64])
def test_what_tiles_see_is_the_tomogram(size: int) -> None:
    data = np.random.default_rng(0).normal(size=(31, 40, 26)).astype(np.float32)
    volume = Volume(data, 10.0)
    result = np.zeros_like(data)
    for row in plan_tiles((31, 40, 26), 1.0, size, 8):
        for tile in row:
            view = resample_to_shape(Volume(cut_box(volume.data, tile.center, tile.reach), 10.0), 10.0, tile.shape)
            own = tuple(slice(a, b) for a, b in zip(tile.start, tile.stop, strict=True))
            result[own] = view[np.ix_(*(tile.indices(axis) for axis in range(3)))]
    assert np.array_equal(result, data)


@pytest.mark.parametrize("ratio", [0.73, 1.31])
def test_no_centre_is_lost_between_tiles(ratio: float) -> None:
    """Each tile has its own heat map of the same centres, on cells that lie otherwise."""
    rng, shape = np.random.default_rng(0), (12, 12, 160)
    tiles = [tile for row in plan_tiles(shape, ratio, 32, 16) for tile in row]
    borders = sorted({tile.start[2] for tile in tiles} - {0})
    centres = np.array([[6.0, 6.0, x] for x in rng.choice(borders, 200) - 0.5 + rng.normal(size=200) * 0.2])
    for centre in centres:
        claimed = 0
        for tile in tiles:
            inside = (centre - tile.center) / ratio + np.array(tile.shape) // 2
            if not ((inside > 2) & (inside < np.array(tile.shape) - 3)).all():
                continue
            cells = np.stack(np.meshgrid(*(np.arange(n // CELL) for n in tile.shape), indexing="ij"), -1)
            distance = ((cells - (inside - (CELL - 1) / 2) / CELL) ** 2).sum(-1)
            found, _ = find_centres(special.logit(np.clip(np.exp(-distance / 2), 1e-6, 1 - 1e-6)), 0.3)
            claimed += int(tile.claims(tile.places(found)).sum())
        assert claimed >= 1


@pytest.mark.parametrize("voxel_size", [8.0, 10.0, 13.7])
def test_a_blob_is_found_where_it_is_at_any_voxel_size(voxel_size: float) -> None:
    shape, place = (50, 60, 44), np.array([21.3, 33.8, 18.6])
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    width = 25.0 / voxel_size
    volume = Volume(np.exp(-((grid - place) ** 2).sum(-1) / (2 * width**2)).astype(np.float32), voxel_size)
    found = []
    for row in plan_tiles(shape, 10.0 / voxel_size, 24, 12):
        for tile in row:
            view = resample_to_shape(Volume(cut_box(volume.data, tile.center, tile.reach), voxel_size), 10.0, tile.shape)
            cells = view.reshape(tile.shape[0] // 2, 2, tile.shape[1] // 2, 2, tile.shape[2] // 2, 2).mean((1, 3, 5))
            where = tile.places(find_centres(special.logit(cells.clip(1e-6, 1 - 1e-6)), 0.5)[0])
            found += [p for p in where if ((p >= np.array(tile.start) - 0.5) & (p < np.array(tile.stop) - 0.5)).all()]
    assert len(found) == 1
    assert np.linalg.norm(found[0] - place) * voxel_size < 10  # half a cell


def test_maxima_are_found_to_a_fraction_of_a_cell() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(20)] * 3, indexing="ij"), -1)
    places = np.array([[4.0, 5.0, 6.0], [12.4, 11.0, 15.0]])
    heat = np.max([np.exp(-((grid - place) ** 2).sum(-1) / 2) for place in places], 0).astype(np.float32)
    logits = special.logit(heat.clip(1e-6, 1 - 1e-6))
    found, height = find_centres(logits, 0.4)
    assert np.allclose(found[np.argsort(found[:, 0])], places * CELL + 0.5, atol=0.6)
    assert (height > 0.8).all()
    assert len(find_centres(logits, 1.1)[0]) == 0


def test_labels_are_where_the_foreground_is() -> None:
    foreground = np.zeros((4, 4, 4), np.float32)
    foreground[0, 0, :3] = 0.9
    labels = np.arange(8).reshape(2, 2, 2)
    assert label_voxels(foreground, labels)[0, 0].tolist() == [1, 1, 2, 0]
    assert label_voxels(foreground, labels).sum() == 4


@given(a=st.tuples(*[st.integers(-3, 8)] * 3), b=st.tuples(*[st.integers(-3, 8)] * 3), seed=st.integers(0, 100))
def test_overlap_is_that_of_the_painted_masks(a: tuple[int, int, int], b: tuple[int, int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    masks = [rng.random((5, 6, 7)) < 0.4 for _ in range(2)]
    canvases = []
    for mask, start in zip(masks, (a, b), strict=True):
        canvas = np.zeros((30, 30, 30), dtype=bool)
        paint(canvas, mask, True, np.array(start) + 8)
        canvases.append(canvas)
    expected = (canvases[0] & canvases[1]).sum() / min(canvas.sum() for canvas in canvases)
    assert overlap(*(Cutout.of(mask, np.array(start)) for mask, start in zip(masks, (a, b), strict=True))) == pytest.approx(expected)


def test_labels_of_some_numbers_are_cleared_around_a_mask() -> None:
    labels = np.arange(12 * 10 * 10).reshape(12, 10, 10) % 3
    before = labels.copy()
    mask = np.zeros((4, 4, 4), dtype=bool)
    mask[1, 2, 3] = mask[1, 2, 2] = True
    around, start = widen(Cutout.of(mask, np.array([8, 0, 5])), 2)
    clear_labels(labels, around, np.array([False, True, False]), start)
    reach = np.zeros(labels.shape, dtype=bool)
    reach[7:12, 0:5, 5:] = True  # two voxels around (9, 2, 7) and (9, 2, 8), as far as the map goes
    np.testing.assert_array_equal(labels, np.where(reach & (before == 1), 0, before))
    clear_labels(labels, around, np.array([False, True, True]), np.array([20, 0, 0]))  # beyond the map there is nothing to clear
    assert (labels == 2).any()


def test_painting_cuts_off_what_sticks_out() -> None:
    canvas = np.zeros((4, 4, 4))
    paint(canvas, np.ones((3, 3, 3), dtype=bool), np.full((3, 3, 3), 7.0), np.array([-2, 3, 1]))
    assert canvas.sum() == 7 * 3
    assert (canvas[0, 3, 1:4] == 7).all()
    paint(canvas, np.ones((3, 3, 3), dtype=bool), 1, np.array([9, 9, 9]))
    assert canvas.sum() == 7 * 3


def test_a_cutout_is_the_least_box_around_a_mask() -> None:
    mask = np.zeros((6, 6, 6), dtype=bool)
    mask[1:3, 2, 4] = True
    values, start = np.arange(216.0).reshape(6, 6, 6), np.array([10, -20, 30])
    cutout = Cutout.of(mask, start)
    assert cutout.shape == (2, 1, 1)
    assert cutout.start.tolist() == [11, -18, 34]
    assert cutout.of_box(values, start).ravel().tolist() == values[mask].tolist()
    assert cutout.reach(start + np.array([1, 2, 0])) == pytest.approx(np.hypot(4, 1))
    nothing = Cutout.of(np.zeros_like(mask), start)
    assert (nothing.count, nothing.mask.size) == (0, 0)


def test_the_better_of_two_that_claim_the_same_voxels_is_kept() -> None:
    cube = np.ones((6, 6, 6), dtype=bool)
    starts = np.array([[0, 0, 0], [0, 0, 2], [0, 0, 5], [20, 0, 0], [20, 0, 1]])
    masks = [Cutout.of(cube, start) for start in starts]
    scores = np.array([0.5, 0.9, 0.4, 0.8, 0.3])
    places = starts + 3.0
    assert suppress(masks, scores, places, 0.3, 0.0).tolist() == [1, 3]
    assert suppress(masks, scores, places, 0.5, 0.0).tolist() == [1, 3, 2]  # half of it is its own
    assert suppress(masks, scores, places, 1.0, 0.0).tolist() == [1, 3, 0, 2, 4]
    assert suppress(masks, scores, places, 1.0, 2.5).tolist() == [1, 3, 2]
    assert suppress([], np.empty(0), np.empty((0, 3)), 0.3, 1.0).tolist() == []
