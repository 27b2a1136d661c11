"""The report at the end of a tokenizer's training: figures on held-out drives, overall and inside masks, and a picture to look at."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from data.contact_sheet import contact_sheet
from data.folder import write_json
from data.image import save_png
from data.store import EpisodeStore
from tokenizer.frames import HeldOut
from tokenizer.metrics import code_use, masked_quality, picture_quality
from tokenizer.model import FrameTokenizer, load_tokenizer

REPORT_FILE = "report.json"
SHEET_FILE = "reconstruction.png"
CHUNK = 64
"""Frames that are measured at once."""
_ANY = 10**9
"""More drives than any store has: a drive is a function of its id, whatever their number."""


def write_report(folder: Path, store: EpisodeStore, held_out: HeldOut, device: torch.device) -> dict[str, Any]:
    """Measures the tokenizer saved in `folder`, in float32, and writes report.json and reconstruction.png beside it."""
    tokenizer = load_tokenizer(folder)
    cast(nn.Module, tokenizer).to(device)  # transformers' own annotation of `to` is off
    report = measure(tokenizer, store, held_out)
    write_json(folder / REPORT_FILE, report)
    save_png(comparison_sheet(tokenizer, held_out.frames), folder / SHEET_FILE)
    return report


def measure(tokenizer: FrameTokenizer, store: EpisodeStore, held_out: HeldOut) -> dict[str, Any]:
    """Figures by name; `masks` is None where the store's source knows no masks, and None for a mask that is empty throughout."""
    made, codes = reconstruct(tokenizer, held_out.frames)
    height, width = tokenizer.grid(*held_out.frames.shape[1:3])
    return {
        "frames": len(held_out.frames),
        "frame_size": list(held_out.frames.shape[1:3]),
        "code_grid": [height, width],
        "codebook_size": tokenizer.codebook_size,
        "tokenizer_hash": tokenizer.content_hash(),
        "data_hash": store.hash,
        **{name: None if np.isnan(value) else value for name, value in figures(held_out, made, codes).items()},
        "masks": _masks(store, held_out, made),
    }


def encode(tokenizer: FrameTokenizer, frames: np.ndarray) -> np.ndarray:
    """Codes (N, h, w) int64 of frames (N, H, W, 3) uint8, a chunk at a time."""
    chunks = (torch.from_numpy(frames[start : start + CHUNK]).to(tokenizer.device) for start in range(0, len(frames), CHUNK))
    return np.concatenate([tokenizer.encode(chunk).cpu().numpy() for chunk in chunks])


def reconstruct(tokenizer: FrameTokenizer, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames (N, H, W, 3) uint8 there and back, and their codes (N, h, w)."""
    codes = encode(tokenizer, frames)
    chunks = (torch.from_numpy(codes[start : start + CHUNK]).to(tokenizer.device) for start in range(0, len(codes), CHUNK))
    return np.concatenate([tokenizer.decode(chunk).cpu().numpy() for chunk in chunks]), codes


def figures(held_out: HeldOut, made: np.ndarray, codes: np.ndarray) -> dict[str, float]:
    """Quality of the pictures and use of the codes, by name."""
    quality, use = picture_quality(held_out.frames, made), code_use(codes, held_out.follows)
    return {
        "psnr_db": quality.psnr_db,
        "ssim": quality.ssim,
        "used_codes": float(use.used),
        "codebook_perplexity": use.perplexity,
        "bits_per_frame": use.bits_per_frame,
        "unchanged_share": use.unchanged_share,
    }


def comparison_sheet(tokenizer: FrameTokenizer, frames: np.ndarray, count: int = 16, columns: int = 8) -> np.ndarray:
    """Contact sheet of frames spread over `frames`: the true ones above what the tokenizer makes of them."""
    chosen = frames[np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)]
    made, _ = reconstruct(tokenizer, chosen)
    rows = [part[start : start + columns] for start in range(0, len(chosen), columns) for part in (chosen, made)]
    return contact_sheet(np.concatenate(rows), columns=min(columns, len(chosen)), scale=max(1, 256 // frames.shape[2]))


def _masks(store: EpisodeStore, held_out: HeldOut, made: np.ndarray) -> dict[str, Any] | None:
    """{mask: {"psnr_db", "ssim", "share"}} of what dashsim shows where, rendered anew from the drives' ids; None for other sources."""
    if store.manifest.source != "dashsim":
        return None
    from data.dashsim.config import DashsimConfig
    from data.sources import dashsim

    settings: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in store.manifest.settings.items()}
    settings = {"events": 0.0, "strays": 0.0} | settings  # sets made before there were any
    try:
        config = DashsimConfig(**settings, episodes=_ANY, val_episodes=_ANY, heldout_episodes=_ANY)
    except TypeError as error:
        print(f"masks left out: {store.path} was made by another version of dashsim ({error})")
        return None
    masks: dict[str, np.ndarray] = {}
    for drive_id in dict.fromkeys(held_out.drive_ids):
        rows = np.flatnonzero(np.array(held_out.drive_ids) == drive_id)
        frames, found = dashsim.masked_frames(config, drive_id, held_out.steps[rows].tolist())
        if not np.array_equal(frames, held_out.frames[rows]):
            print(f"masks left out: {drive_id} looks otherwise now than in {store.path}, whose renderer was another version")
            return None
        for name, mask in found.items():
            masks.setdefault(name, np.zeros(held_out.frames.shape[:3], bool))[rows] = mask
    inside = masked_quality(held_out.frames, made, masks)
    return {
        name: quality and {"psnr_db": quality.psnr_db, "ssim": quality.ssim, "share_of_pixels": float(masks[name].mean())}
        for name, quality in inside.items()
    }
