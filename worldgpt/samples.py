"""Sample rollouts as contact sheets, to look at while a model trains."""

from pathlib import Path

import numpy as np

from conditioning.steering import Commands
from data.contact_sheet import contact_sheet
from data.image import save_png
from worldgpt.pipeline import WorldGPTPipeline
from worldgpt.sampling import SamplingConfig
from worldgpt.windows import Windows

COLUMNS = 8


def sample_sheet(pipeline: WorldGPTPipeline, windows: Windows, steps: int, path: Path) -> None:
    """Write a sheet: for three held-out windows the true frames above a rollout from their first half under their true actions,
    and below two rollouts of `steps` that start from nothing."""
    layout = pipeline.model.layout
    frame = layout.of_kind("frame")[0]
    camera = frame.name.removeprefix("camera/")
    chosen = np.linspace(0, len(windows.tokens) - 1, min(3, len(windows.tokens))).round().astype(int)
    tokens, half = windows.tokens[chosen], windows.tokens.shape[1] // 2
    prompts = [windows.captions[i][half] for i in chosen]
    actions = pipeline.model.actions.values(tokens[:, half:, layout.span_of_kind("action")])
    free = np.full((len(actions[0]), len(pipeline.model.telemetry)), np.nan, np.float32)
    sampling = SamplingConfig(top_p=0.9)
    rolled = pipeline(
        prompts, tokens.shape[1] - half, context=tokens[:, :half], commands=[Commands(a, free) for a in actions], sampling=sampling
    )
    dreamed = pipeline(prompts[:2], steps, sampling=sampling).frames[camera]
    true = pipeline.decode(layout.unpack(tokens[:, half:], frame))
    rows = [row for pair in zip(true, rolled.frames[camera], strict=True) for row in pair] + list(dreamed)
    save_png(contact_sheet(np.concatenate([_chosen(row) for row in rows]), columns=COLUMNS), path)


def _chosen(row: np.ndarray) -> np.ndarray:
    """Frames (T, H, W, 3) -> (8, H, W, 3), spread over all of them; black where there are fewer."""
    frames = row[np.linspace(0, len(row) - 1, min(COLUMNS, len(row))).round().astype(int)]
    return np.concatenate([frames, np.zeros((COLUMNS - len(frames), *frames.shape[1:]), np.uint8)])
