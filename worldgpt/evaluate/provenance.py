"""What a figure comes from: weights and data by their hashes, and the machine's part."""

import hashlib
from typing import Any

import numpy as np
import torch

from data.store import EpisodeStore
from worldgpt.evaluate.logged import Place
from worldgpt.pipeline import WorldGPTPipeline


def provenance(pipeline: WorldGPTPipeline, store: EpisodeStore) -> dict[str, Any]:
    """Hashes of model, tokenizer and data set, and the device and number type that the model ran on."""
    model = pipeline.model
    return {
        "model_hash": model.content_hash(),
        "tokenizer_hash": model.config.tokenizer_hash,
        "data_hash": store.hash,
        "device": str(model.device),
        "device_name": torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else None,
        "dtype": str(model.dtype).removeprefix("torch."),
        "torch": str(torch.__version__),
        "fps": model.config.fps,
    }


def pinned(place: Place, *frames: np.ndarray) -> dict[str, Any]:
    """Drive, step and hash of true frames (F, H, W, 3), one array a camera."""
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(camera).tobytes() for camera in frames))
    return {"drive_id": place[0], "step": place[1], "frames_sha256": digest.hexdigest()}
