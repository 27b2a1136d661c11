"""Band-limited random fields that tile: the source of all texture in dashsim."""

import numpy as np


def band_noise(rng: np.random.Generator, height: int, width: int, wave_y: float, wave_x: float) -> np.ndarray:
    """(height, width) float32 Gaussian noise of mean 0 and variance 1, periodic along both axes.

    Structures are about wave_y by wave_x samples large; nothing much shorter is in it, so that it can be sampled without aliasing.
    """
    spectrum = np.fft.rfft2(rng.standard_normal((height, width)))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None] * wave_y, np.fft.rfftfreq(width)[None, :] * wave_x)
    spectrum *= frequency * np.exp(-(frequency**2))
    field = np.fft.irfft2(spectrum, s=(height, width))
    return (field / field.std()).astype(np.float32)


def smoothstep(low: float, high: float, value: np.ndarray) -> np.ndarray:
    """0 below low, 1 above high, smooth in between."""
    share = np.clip((value - low) / (high - low), 0.0, 1.0)
    return share * share * (3.0 - 2.0 * share)
