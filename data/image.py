"""Pictures: reading, fitting to a size, writing. Sizes are always (H, W)."""

import re
from pathlib import Path

import cv2
import numpy as np

from data.errors import UserError
from data.folder import atomic_file

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
SIZE_STEP = 8
"""Frame heights and widths are multiples of this: the smallest downsampling of the tokenizers."""
_END_MARKS = {b"\xff\xd8": b"\xff\xd9", b"\x89PNG": b"IEND"}
"""{how a file of a format begins: what stands near its end when it is complete}."""


def parse_size(text: str) -> tuple[int, int]:
    """'64x128' -> (64, 128), height first; UserError where it is not HxW or does not divide by 8."""
    match = re.fullmatch(r"(\d+)x(\d+)", text.strip())
    if match is None:
        raise UserError(f"size: expected HEIGHTxWIDTH such as 64x128, got {text!r}")
    return check_size((int(match[1]), int(match[2])))


def check_size(size: tuple[int, int]) -> tuple[int, int]:
    """`size` itself; UserError where height or width does not divide by 8."""
    if min(size) < SIZE_STEP or size[0] % SIZE_STEP or size[1] % SIZE_STEP:
        raise UserError(f"size: expected height and width that divide by {SIZE_STEP}, got {size[0]}x{size[1]}")
    return size


def centre_cut(height: int, width: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(top, left, rows, columns) of the largest part of the aspect of `size` about the centre of a picture."""
    rows = min(height, round(width * size[0] / size[1]))
    columns = min(width, round(height * size[1] / size[0]))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cut a uint8 (H, W, 3) image to the aspect of `size` about its centre, then resize it by area to `size`."""
    top, left, rows, columns = centre_cut(image.shape[0], image.shape[1], size)
    image = image[top : top + rows, left : left + columns]
    if image.shape[:2] == size:
        return np.ascontiguousarray(image)
    method = cv2.INTER_AREA if rows >= size[0] else cv2.INTER_LINEAR
    return cv2.resize(image, size[::-1], interpolation=method)


def read_image(path: str | Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """uint8 (H, W, 3) RGB picture, fitted to `size`; UserError where the file is missing, empty, truncated or no picture."""
    data = _complete_bytes(Path(path))
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise UserError(f"{path}: expected a picture, got another kind of file")
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return image if size is None else fit(image, size)


def image_problem(path: Path) -> str | None:
    """Why the file cannot be a complete picture, found without decoding it, or None."""
    try:
        _complete_bytes(path)
    except UserError as error:
        return str(error)
    return None


def save_png(image: np.ndarray, path: str | Path) -> None:
    """Write a uint8 (H, W, 3) RGB image as a PNG file, atomically."""
    encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
    with atomic_file(path) as temp:
        temp.write_bytes(encoded.tobytes())


def _complete_bytes(path: Path) -> bytes:
    """A picture's bytes. OpenCV paints the missing part of a truncated JPEG gray and says nothing, so its end is looked for here."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if not data:
        raise UserError(f"{path}: expected a picture, got an empty file")
    for begin, end in _END_MARKS.items():
        if data.startswith(begin) and end not in data[-4096:]:
            raise UserError(f"{path}: expected a whole picture, got a truncated file")
    return data
