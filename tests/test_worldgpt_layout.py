"""Laws of the layout: it round-trips, its parts tile the step, no two positions share a place."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from world_samples import SPEED, STEERING, random_tokens

from data.episode import ChannelSpec
from data.errors import UserError
from worldgpt.layout import Layout

THROTTLE = ChannelSpec("throttle_norm", "norm", -1, 1)
LAYOUTS = {
    "one camera": Layout.build({"front": (2, 3)}, 11, (SPEED,), (STEERING,), 4),
    "three cameras": Layout.build({"front": (2, 5), "left": (3, 2), "rear": (1, 1)}, 7, (SPEED,), (STEERING, THROTTLE), 2),
    "no channels": Layout.build({"front": (4, 8)}, 1024, (), (), 1),
    "no telemetry": Layout.build({"front": (1, 2)}, 5, (), (STEERING,), 3),
    "rows": replace(Layout.build({"front": (2, 3)}, 11, (SPEED,), (STEERING,), 4), together=3),
    "diagonals": replace(Layout.build({"front": (4, 3)}, 11, (SPEED,), (STEERING,), 4), slope=1),
    "flat diagonals": replace(Layout.build({"front": (3, 5), "left": (3, 2)}, 7, (SPEED,), (STEERING, THROTTLE), 2), slope=2),
    "more than a row": replace(Layout.build({"front": (2, 5), "left": (3, 2)}, 7, (SPEED,), (STEERING, THROTTLE), 2), together=6),
}


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Layout:
    return LAYOUTS[request.param]


def test_streams_tile_the_step_in_the_order_frames_telemetry_actions(layout: Layout) -> None:
    covered = np.concatenate([np.arange(span.start, span.stop) for span in layout.spans.values()])
    assert covered.tolist() == list(range(layout.tokens_per_step))
    kinds = [stream.kind for stream in layout.streams]
    assert kinds == sorted(kinds, key=("frame", "telemetry", "action").index)
    assert layout.positions_per_step == layout.prompt_tokens + layout.starts + layout.tokens_per_step
    for kind in ("frame", "telemetry", "action"):
        width = sum(stream.tokens for stream in layout.of_kind(kind))
        span = layout.span_of_kind(kind)
        assert span.stop - span.start == width


def test_pack_and_unpack_are_inverse(layout: Layout) -> None:
    tokens = random_tokens(layout, 6).numpy()
    parts = {stream.name: layout.unpack(tokens, stream) for stream in layout.streams}
    for stream in layout.streams:
        assert parts[stream.name].shape == (6, stream.rows, stream.columns)
    assert (layout.pack(parts, 6) == tokens).all()
    flat = {name: part.reshape(6, -1) for name, part in parts.items()}
    assert (layout.pack(flat, 6) == tokens).all()
    batch = torch.from_numpy(tokens).view(2, 3, -1)
    for stream in layout.streams:
        assert torch.equal(layout.unpack(batch, stream).flatten(0, 1), torch.from_numpy(parts[stream.name]))


def test_what_is_not_given_is_null_and_null_is_no_id(layout: Layout) -> None:
    packed = layout.pack({}, 2)
    assert (packed == layout.null_tokens).all()
    for stream in layout.streams:
        assert (packed[:, layout.spans[stream.name]] == layout.codebook(stream).size).all()


def test_raster_order_is_row_by_row() -> None:
    layout = LAYOUTS["one camera"]
    grid = np.array([[[0, 1, 2], [3, 4, 5]]])
    assert layout.pack({"camera/front": grid}, 1)[0, :6].tolist() == [0, 1, 2, 3, 4, 5]


def test_pieces_cut_every_range_at_the_streams(layout: Layout) -> None:
    total = layout.tokens_per_step
    for start in range(total):
        for stop in range(start + 1, total + 1, max(1, total // 7)):
            pieces = layout.pieces(start, stop)
            assert pieces[0][1] == start
            assert pieces[-1][2] == stop
            for (stream, a, b), following in zip(pieces, [*pieces[1:], None], strict=True):
                span = layout.spans[stream.name]
                assert span.start <= a < b <= span.stop
                assert following is None or following[1] == b
    assert layout.pieces(1, 1) == []


def test_no_two_positions_of_a_step_share_a_place(layout: Layout) -> None:
    grid = layout.grid_positions
    assert grid.shape == (layout.positions_per_step, 2)
    assert len({tuple(place) for place in grid.tolist()}) == len(grid)


def test_cameras_share_a_codebook_and_stand_side_by_side() -> None:
    layout = LAYOUTS["three cameras"]
    assert [c.name for c in layout.codebooks] == ["frame", "speed_mps", "steering_norm", "throttle_norm"]
    assert {layout.codebook(s).name for s in layout.of_kind("frame")} == {"frame"}
    start = layout.prompt_tokens
    columns = [layout.grid_positions[start:, 1][layout.spans[s.name]] for s in layout.of_kind("frame")]
    assert [(c.min(), c.max()) for c in columns] == [(0, 4), (5, 6), (7, 7)]


def test_a_layout_survives_json(layout: Layout) -> None:
    import json

    assert Layout.from_dict(json.loads(json.dumps(layout.to_dict()))) == layout


def test_a_token_is_predicted_in_the_pass_before_it_is_read(layout: Layout) -> None:
    predicting, standing = layout.passes[layout.predictors], layout.passes[layout.positions]
    assert (predicting == standing - 1).all()
    assert len(set(layout.predictors.tolist())) == layout.tokens_per_step
    assert (np.diff(layout.passes) >= 0).all()


def test_passes_tile_the_step(layout: Layout) -> None:
    ends = [0, *(one.last for one in layout.schedule)]
    assert [one.first for one in layout.schedule] == ends[:-1] and ends[-1] == layout.positions_per_step
    predicted = [token for one in layout.schedule for token in range(one.start, one.stop)]
    assert predicted == list(range(layout.tokens_per_step))
    assert all(one.first <= one.at and one.at + one.stop - one.start <= one.last for one in layout.schedule)
    if not layout.slope:
        assert max(one.stop - one.start for one in layout.schedule) <= layout.together


@pytest.mark.parametrize("slope", [1, 2, 4, 16])
def test_a_code_on_a_diagonal_is_predicted_from_its_left_neighbour(slope: int) -> None:
    layout = replace(Layout.build({"front": (8, 16)}, 256, (SPEED,), (), 4), slope=slope)
    assert len(layout.schedule) - 1 == 16 + 7 * slope + 1
    raster = layout.orders["camera/front"]
    where = {int(place): token for token, place in enumerate(raster)}
    for place, token in where.items():
        left = layout.standing[layout.predictors[token]]
        if place % 16:
            assert left == where[place - 1]
        else:
            assert (left >= layout.tokens_per_step) == (place > 0)
        hints = {int(h) - 2 * layout.tokens_per_step for h in layout.hint_places(layout.streams[0])[token]}
        row, column = divmod(place, 16)
        for up, right in ((0, -1), (-1, -1), (-1, 0), (-1, 1)):
            if row + up >= 0 and 0 <= column + right < 16:
                assert (where[place + 16 * up + right] in hints) == ((up, right) != (-1, 1) or slope > 1)


def test_orders_do_not_mix() -> None:
    with pytest.raises(UserError, match="expected tokens together or a slope, got together 3, slope 1"):
        replace(LAYOUTS["rows"], slope=1)


def test_what_several_passes_read_is_what_each_of_them_reads(layout: Layout) -> None:
    count = len(layout.schedule)
    for first in range(1, count):
        for last in range(first + 1, count + 1):
            reading = layout.reading(first, last)
            read = slice(layout.schedule[first].first, layout.schedule[last - 1].last)
            content = [*range(layout.tokens_per_step)[reading.tokens], *(layout.tokens_per_step + np.arange(layout.starts)[reading.starts])]
            arranged = np.array(content)[reading.arrangement] if reading.arrangement is not None else content
            assert list(arranged) == layout.standing[read].tolist()
            predicted = np.arange(layout.tokens_per_step)[reading.predicted]
            if reading.scattered is None:
                places = reading.offset + np.arange(len(predicted))
            else:
                places = np.array([np.flatnonzero(reading.scattered == i)[0] for i in range(len(predicted))])
            assert (layout.predictors[predicted] - read.start == places).all()


def test_hints_are_known_when_they_are_asked_for(layout: Layout) -> None:
    """Codes of the present step are hints only where they are read no later than the position that predicts."""
    size = layout.tokens_per_step
    for stream in layout.streams:
        for token, places in enumerate(layout.hint_places(stream)):
            predicting = layout.passes[layout.predictors[layout.spans[stream.name].start + token]]
            present = [place - 2 * size for place in places if 2 * size <= place < 3 * size]
            assert all(layout.passes[layout.positions[place]] <= predicting for place in present)
