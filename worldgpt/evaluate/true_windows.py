"""True steps as a world model takes them, read from a data set as it lies there: windows to predict, and what trivial predictors count."""

from collections.abc import Sequence

import numpy as np

from data.episode import Caption
from data.store import EpisodeStore
from worldgpt.baselines import Baselines, fit_baselines
from worldgpt.evaluate.logged import Place, episode_tokens, find_places
from worldgpt.pipeline import WorldGPTPipeline
from worldgpt.token_store import TokenDrive, window_captions
from worldgpt.windows import PAST_STEPS, Windows

PIECE = 64
"""Steps of a drive that the trivial predictors are counted on in one piece."""


def read_windows(pipeline: WorldGPTPipeline, store: EpisodeStore, places: Sequence[Place], steps: int) -> Windows:
    """The windows of `steps` steps that begin at these places, with the two steps before each."""
    records = {drive.drive_id: drive for split in store.splits for drive in store.drives(split)}
    tokens, captions, before = [], [], []
    for drive_id, start in places:
        first = max(0, start - PAST_STEPS)
        past = np.tile(pipeline.model.layout.null_tokens, (PAST_STEPS, 1))
        whole = np.concatenate([past, episode_tokens(pipeline, store.read(drive_id, first, start + steps))])[-steps - PAST_STEPS :]
        tokens.append(whole[PAST_STEPS:])
        before.append(whole[:PAST_STEPS])
        captions.append(_captions(records[drive_id].captions, start, steps))
    return Windows(np.stack(tokens), captions, np.stack(before))


def count_baselines(pipeline: WorldGPTPipeline, store: EpisodeStore, steps: int) -> Baselines:
    """The trivial predictors, counted on about `steps` steps spread over the split `train`; UserError where there is none."""
    layout = pipeline.model.layout
    piece = min(PIECE, max(drive.steps for drive in store.drives("train")))
    places = find_places(store, "train", piece, -(-steps // piece))
    drives = [episode_tokens(pipeline, store.read(drive_id, start, start + piece)) for drive_id, start in places]
    return fit_baselines(drives, [layout.codebook(s).parts for s in layout.streams for _ in range(s.tokens)])


def _captions(captions: tuple[Caption, ...], start: int, steps: int) -> list[str]:
    return window_captions(TokenDrive("", "", 0, start + steps, captions, {}), start, steps, None)
