"""Laws of the windows: true tokens of one drive; noise goes into the inputs alone, in the stated shares."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from world_samples import STEPS, random_model, random_tokens

from conditioning.channels import ChannelSet
from conditioning.guidance import DropoutConfig
from data.episode import ChannelSpec
from data.errors import UserError
from worldgpt.config import HistoryConfig
from worldgpt.layout import Layout
from worldgpt.mixture import Mixture, parse_data
from worldgpt.token_store import TokenStore
from worldgpt.windows import AnchorPlan, WindowReader, Windows, corrupt, model_batch

NONE = DropoutConfig(text=0, actions=0, telemetry=0)


@pytest.fixture(scope="module")
def layout(column_tokens: TokenStore) -> Layout:
    info = column_tokens.info
    return Layout.build(info.grids, info.codebook_size, info.telemetry, info.actions, 2)


@pytest.fixture(scope="module")
def reader(column_tokens: TokenStore, layout: Layout) -> WindowReader:
    return WindowReader(Mixture.of(column_tokens), "val", layout, 5)


def many(layout: Layout, batch: int = 400) -> Windows:
    tokens = random_tokens(layout, batch, 7).numpy()
    return Windows(tokens[:, 2:], [["rain"] * 5 for _ in range(batch)], tokens[:, :2])


def test_a_window_is_five_rows_of_one_drive(column_tokens: TokenStore, reader: WindowReader, layout: Layout) -> None:
    codes, channels = column_tokens.arrays("val")
    bins = ChannelSet((*column_tokens.info.telemetry, *column_tokens.info.actions)).tokens(np.asarray(channels))
    rows = np.array([0, STEPS - 5, STEPS, 3 * STEPS + 7])
    windows = reader.parts[0].read(rows, None)
    assert windows.tokens.shape == (4, 5, layout.tokens_per_step)
    for window, captions, row in zip(windows.tokens, windows.captions, rows, strict=True):
        assert (window[:, :4] == codes[row : row + 5]).all()
        assert (window[:, 4:] == bins[row : row + 5]).all()
        drive, first = column_tokens.drives("val")[row // STEPS], row % STEPS
        assert captions == [drive.captions[int(first + t >= STEPS // 2)].text for t in range(5)]


def test_random_windows_are_drawn_by_the_generator_from_all_drives(reader: WindowReader) -> None:
    first, again, other = (reader.random(8, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (first.tokens == again.tokens).all()
    assert first.captions == again.captions
    assert (first.tokens != other.tokens).any()
    speeds = reader.random(400, np.random.default_rng(0)).tokens[:, 0, reader.layout.span_of_kind("telemetry").start]
    assert np.bincount(speeds, minlength=4) == pytest.approx(100, abs=35)  # a quarter of the drives has each speed


def test_spaced_windows_are_the_same_each_time_and_reach_both_ends(reader: WindowReader) -> None:
    windows, part = reader.spaced(7), reader.parts[0]
    assert (windows.tokens == reader.spaced(7).tokens).all()
    assert (windows.tokens[0] == part.tokens(np.arange(5))).all()
    assert (windows.tokens[-1] == part.tokens(np.arange(len(part.codes) - 5, len(part.codes)))).all()
    assert len(reader.spaced(10**6).tokens) == len(part.starts)


def test_corruption_leaves_the_truth_alone_and_keeps_its_share(layout: Layout) -> None:
    windows = many(layout)
    before, captions = windows.tokens.copy(), [list(row) for row in windows.captions]
    given = corrupt(windows, layout, HistoryConfig(corruption=0.4), NONE, np.random.default_rng(1))
    inputs = given.tokens
    assert (windows.tokens == before).all()
    assert windows.captions == captions == given.captions
    frames = layout.span_of_kind("frame")
    changed = inputs[..., frames] != before[..., frames]
    kept_by_chance = 1 / 15
    assert changed.mean() == pytest.approx(0.2 * (1 - kept_by_chance), abs=0.015)  # shares are drawn from 0 to 0.4
    shares = changed.mean((1, 2))
    assert shares.min() < 0.03
    assert 0.35 < shares.max() < 0.75
    assert (inputs[..., frames.stop :] == before[..., frames.stop :]).all()
    assert (corrupt(windows, layout, HistoryConfig(corruption=0.0), NONE, np.random.default_rng(0)).tokens == before).all()


def test_the_step_before_is_true_missing_at_a_drive_begin_and_sometimes_forgotten(column_tokens) -> None:
    info = column_tokens.info
    layout = Layout.build(info.grids, info.codebook_size, info.telemetry, info.actions, prompt_tokens=2)
    reader = WindowReader(Mixture.of(column_tokens), "train", layout, 5).parts[0]
    windows = reader.read(reader.starts, None)
    begins = np.isin(reader.starts, [drive.first for drive in reader.drives])
    assert begins.any()
    seconds = np.isin(reader.starts, [drive.first + 1 for drive in reader.drives])
    assert (windows.before[begins] == layout.null_tokens).all() and (windows.before[seconds, 0] == layout.null_tokens).all()
    assert (windows.before[~begins, 1] == reader.tokens(reader.starts[~begins] - 1)).all()
    assert (windows.before[~begins & ~seconds, 0] == reader.tokens(reader.starts[~begins & ~seconds] - 2)).all()
    given = corrupt(many(layout), layout, HistoryConfig(corruption=0.0), NONE, np.random.default_rng(0)).before
    forgotten = (given == layout.null_tokens).all((1, 2))
    assert forgotten.mean() == pytest.approx(0.25, abs=0.06)
    assert (given[~forgotten] == many(layout).before[~forgotten]).all()


def test_exchanged_codes_are_codes_that_occur(layout: Layout) -> None:
    frames = layout.span_of_kind("frame")
    windows = many(layout)
    windows.tokens[..., frames] = 3 + windows.tokens[..., frames] % 2
    inputs = corrupt(windows, layout, HistoryConfig(corruption=1.0), NONE, np.random.default_rng(0)).tokens
    assert set(np.unique(inputs[..., frames])) == {3, 4}


@pytest.mark.parametrize("kind", ["telemetry", "action"])
def test_dropout_hides_whole_windows_of_one_kind(layout: Layout, kind: str) -> None:
    windows, name = many(layout), {"telemetry": "telemetry", "action": "actions"}[kind]
    dropout = DropoutConfig(**{**vars(NONE), name: 0.3})
    inputs = corrupt(windows, layout, HistoryConfig(corruption=0.0), dropout, np.random.default_rng(0)).tokens
    span = layout.span_of_kind(kind)  # type: ignore[arg-type]
    hidden = inputs[..., span] == layout.null_tokens[span]
    assert (hidden.all((1, 2)) | ~hidden.any((1, 2))).all()
    assert hidden.mean() == pytest.approx(0.3, abs=0.06)
    others = np.ones(layout.tokens_per_step, bool)
    others[span] = False
    assert (inputs[..., others] == windows.tokens[..., others]).all()


def test_dropout_silences_whole_windows_and_each_kind_by_itself(layout: Layout) -> None:
    windows = many(layout)
    given = corrupt(windows, layout, HistoryConfig(corruption=0.0), DropoutConfig(0.3, 0.3, 0.3), np.random.default_rng(0))
    inputs, captions = given.tokens, given.captions
    silent = np.array([row == [""] * 5 for row in captions])
    assert all(row == ["rain"] * 5 for row, quiet in zip(captions, silent, strict=True) if not quiet)
    assert silent.mean() == pytest.approx(0.3, abs=0.06)
    places = layout.span_of_kind("telemetry").start, layout.span_of_kind("action").start
    telemetry, action = (inputs[:, 0, place] == layout.null_tokens[place] for place in places)
    for a, b in ((silent, telemetry), (silent, action), (telemetry, action)):
        assert (a & b).mean() == pytest.approx(0.09, abs=0.05)


def test_a_batch_holds_each_prompt_once() -> None:
    model = random_model()
    tokens = random_tokens(model.layout, 2, 3).numpy()
    captions = [["fog", "fog", "rain"], ["rain", "", "fog"]]
    batch = model_batch(Windows(tokens, captions, tokens[:, 0]), tokens, model.text.tokenize)
    assert len(batch["pieces"]) == 3
    with torch.no_grad():
        gathered = model.text(batch["pieces"])[batch["prompt"]]
        for b, row in enumerate(captions):
            torch.testing.assert_close(gathered[b], model.text.encode(row), rtol=0, atol=1e-9)


def test_sets_are_drawn_by_their_weights_and_what_one_lacks_is_null(column_tokens: TokenStore) -> None:
    (speed,) = column_tokens.info.telemetry
    brake = ChannelSpec("brake_norm", "1", 0.0, 1.0, bins=5)
    other = TokenStore(column_tokens.folder, replace(column_tokens.info, actions=(brake,), telemetry=(replace(speed, high=16.0, bins=2),)))
    mixture = Mixture((column_tokens, other), (3.0, 1.0))
    assert [c.name for c in mixture.actions] == ["steering_norm", "brake_norm"]
    assert mixture.telemetry == (replace(speed, high=16.0, bins=4),)  # the widest range, the most bins
    layout = Layout.build(mixture.grids, mixture.codebook_size, mixture.telemetry, mixture.actions, prompt_tokens=2)
    windows = WindowReader(mixture, "train", layout, 5).random(400, np.random.default_rng(0))
    steering, braking = (windows.tokens[..., layout.spans[f"action/{c.name}"].start] for c in mixture.actions)
    first = (braking == 5).all(1)  # NULL of five bins
    assert first.mean() == pytest.approx(0.75, abs=0.07)
    assert (steering[~first] == 3).all() and (steering[first] < 3).all() and (braking[~first] < 5).all()
    both = WindowReader(mixture, "val", layout, 5).spaced(8)
    assert len(both.tokens) == 8 and (both.tokens[:4, :, :5] == both.tokens[4:, :, :5]).all()


def test_a_set_without_held_out_drives_only_trains(column_tokens: TokenStore, layout: Layout) -> None:
    drives = tuple(d for d in column_tokens.info.drives if d.split == "train")
    bare = TokenStore(column_tokens.folder, replace(column_tokens.info, drives=drives))
    mixture = Mixture((bare, column_tokens), (1.0, 1.0))
    assert len(WindowReader(mixture, "train", layout, 5).parts) == 2
    held_out = WindowReader(mixture, "val", layout, 5)
    assert np.array_equal(held_out.spaced(4).tokens, WindowReader(Mixture.of(column_tokens), "val", layout, 5).spaced(4).tokens)
    with pytest.raises(UserError, match="split 'val'"):
        WindowReader(Mixture.of(bare), "val", layout, 5)


def test_sets_that_do_not_go_together_are_refused(column_tokens: TokenStore) -> None:
    info = column_tokens.info
    for changes, told in (
        ({"fps": 5.0}, "fps expected 10.0 as in .*, got 5.0"),
        ({"tokenizer_hash": "other"}, "tokenizer_hash expected"),
        ({"codebook_size": 9}, "codebook_size expected 15"),
    ):
        with pytest.raises(UserError, match=told):
            Mixture.of(column_tokens, TokenStore(column_tokens.folder, replace(info, **changes)))
    other = TokenStore(column_tokens.folder, replace(info, telemetry=(replace(info.telemetry[0], unit="km/h"),)))
    with pytest.raises(UserError, match="channel 'speed_mps' expected the unit 'm/s', got 'km/h'"):
        _ = Mixture.of(column_tokens, other).telemetry


def test_weights_are_read_from_the_folder_names() -> None:
    assert parse_data(["runs/a:2", "b", "c:0.5"]) == {"runs/a": 2.0, "b": 1.0, "c": 0.5}
    for wrong, told in ((["a:x"], "got 'a:x'"), (["a:0"], "above 0, got 'a:0'"), (["a", "a:2"], "a is named twice"), ([], "at least one")):
        with pytest.raises(UserError, match=told):
            parse_data(wrong)


def test_recent_steps_are_corrupted_more_where_recency_says_so(layout: Layout) -> None:
    windows, frames = many(layout, 3000), layout.span_of_kind("frame")
    given = corrupt(windows, layout, HistoryConfig(corruption=0.6, recency=1.0), NONE, np.random.default_rng(1))
    shares = (given.tokens != windows.tokens)[..., frames].mean((0, 2))  # of steps 2 to 6 of seven, the two before counted
    expected = 0.3 * (1 + np.linspace(-1, 1, 7)[2:]) * 14 / 15
    assert shares == pytest.approx(expected, abs=0.03)


def test_neighbours_differ_in_one_digit_by_one_level() -> None:
    layout = Layout.build({"front": (4, 4)}, 60, (), (), 1, levels=(3, 4, 5))
    windows = Windows(random_tokens(layout, 200, 3).numpy(), [["rain"] * 3] * 200, random_tokens(layout, 200, 2, seed=1).numpy())
    given = corrupt(windows, layout, HistoryConfig(corruption=1.0, kind="neighbour"), NONE, np.random.default_rng(0)).tokens
    digits = [np.stack([t % 3, t // 3 % 4, t // 12]) for t in (windows.tokens, given)]
    moved = np.abs(digits[0] - digits[1])
    assert set(np.unique(moved.sum(0))) == {0, 1}
    assert (moved.max((1, 2, 3)) == 1).all()
    assert moved.sum(0).mean() == pytest.approx(0.5, abs=0.05)
    plain = Layout.build({"front": (4, 4)}, 60, (), (), 1)
    with pytest.raises(UserError, match="history kind"):
        corrupt(windows, plain, HistoryConfig(kind="neighbour"), NONE, np.random.default_rng(0))


def test_noise_moves_each_digit_by_itself_and_leaves_the_rest() -> None:
    layout = Layout.build({"front": (4, 4)}, 60, (), (), 1, levels=(3, 4, 5))
    windows = Windows(random_tokens(layout, 400, 3).numpy(), [["rain"] * 3] * 400, random_tokens(layout, 400, 2, seed=1).numpy(), anchors=1)
    windows.tokens[:, :, 3] = layout.null_tokens[3]
    given = corrupt(windows, layout, HistoryConfig(corruption=0.0, digit_noise=0.5), NONE, np.random.default_rng(0)).tokens
    assert (given[:, 0] == windows.tokens[:, 0]).all() and (given[:, :, 3] == windows.tokens[:, :, 3]).all()
    there = np.delete(np.arange(16), 3)
    digits = [np.stack([t % 3, t // 3 % 4, t // 12])[:, :, 1:, there] for t in (windows.tokens, given)]
    moved = np.abs(digits[0] - digits[1])
    assert set(np.unique(moved)) == {0, 1}
    assert moved.mean((1, 2, 3)) == pytest.approx([0.25] * 3, abs=0.02)
    shares = moved.mean((0, 2, 3))  # of each window, even from 0 to a half
    assert np.quantile(shares, [0.05, 0.5, 0.95]) == pytest.approx([0.025, 0.25, 0.475], abs=0.05)
    with pytest.raises(UserError, match=r"history\.digit_noise needs codes with digits"):
        plain = Layout.build({"front": (4, 4)}, 60, (), (), 1)
        corrupt(windows, plain, HistoryConfig(digit_noise=0.1), NONE, np.random.default_rng(0))


def test_own_draws_are_only_marked(layout: Layout) -> None:
    windows, frames = many(layout), layout.span_of_kind("frame")
    given = corrupt(windows, layout, HistoryConfig(corruption=0.4, kind="own"), NONE, np.random.default_rng(1))
    assert (given.tokens == windows.tokens).all()
    assert given.own is not None and not given.own[..., frames.stop :].any()
    assert given.own[..., frames].mean() == pytest.approx(0.2, abs=0.02)
    whole = corrupt(windows, layout, HistoryConfig(corruption=0.0, self_rollout=1.0), NONE, np.random.default_rng(1)).own
    assert whole is not None and whole[:, 1:, frames].all() and not whole[:, 0].any() and not whole[..., frames.stop :].any()


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_anchors_are_other_steps_of_the_drive(reader: WindowReader, column_tokens: TokenStore, ahead: bool, count: int) -> None:
    part, plan = reader.parts[0], AnchorPlan(count, ahead, reach=9)
    rows = part.starts[:: len(part.starts) // 7]
    windows = part.anchored(rows, plan, np.random.default_rng(0))
    assert (windows.tokens[:, count:] == part.tokens(rows[:, None] + np.arange(count, 5))).all()
    assert windows.times is not None and (windows.times[:, count:] == np.arange(count, 5)).all()
    places = rows[:, None] + windows.times[:, :count]
    assert (windows.tokens[:, :count] == part.tokens(places)).all()
    away = places - (rows[:, None] + (4 if ahead else count))
    assert np.abs(away).max() <= 9
    assert ((away >= 0) if ahead else (away < 0)).all()
    for place, row in zip(places, rows, strict=True):
        assert (place // STEPS == row // STEPS).all()  # the same drive
    inner = rows % STEPS >= 2
    assert (windows.before[inner] == part.tokens((rows[:, None] + np.arange(count - 2, count))[inner])).all()
    given = corrupt(windows, reader.layout, HistoryConfig(corruption=1.0), NONE, np.random.default_rng(0))
    assert (given.tokens[:, :count] == windows.tokens[:, :count]).all()
    assert (given.tokens[:, count:] != windows.tokens[:, count:]).any()
