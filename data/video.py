"""Video files, decoded and encoded with PyAV; frames are uint8 (H, W, 3) RGB and sizes are (H, W)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from data.errors import UserError
from data.folder import atomic_file
from data.frame_scaler import FrameScaler, turned
from data.resample import resample

if TYPE_CHECKING:
    from av import VideoFrame as Picture
    from av import VideoStream
    from av.container import InputContainer

VIDEO_SUFFIXES = (".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".hevc", ".h264", ".ts")
_COMPLETE = 0.95
"""A file is truncated where fewer frames than this share of those in its header can be decoded."""


@dataclass(frozen=True)
class VideoInfo:
    """What a file's header says; `frames` is an estimate where the header has no count."""

    height: int
    width: int
    fps: float
    frames: int
    duration_s: float


@dataclass(frozen=True)
class VideoFrame:
    """One decoded frame, its number in the file and its time."""

    index: int
    timestamp_s: float
    image: np.ndarray


def probe(path: str | Path) -> VideoInfo:
    """Read the header only; UserError where the file is missing, empty, truncated or no video."""
    with opened(Path(path)) as (container, stream):
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        ticks = stream.duration and stream.time_base and stream.duration * stream.time_base
        duration_s = float(ticks or (container.duration or 0) / 1e6)
        context = stream.codec_context
        return VideoInfo(context.height, context.width, fps, stream.frames or round(duration_s * fps), duration_s)


def count_frames(path: str | Path) -> int:
    """How many frames the file holds, counted without decoding them."""
    with opened(Path(path)) as (container, stream):
        return sum(packet.size > 0 for packet in container.demux(stream))


def decode(
    path: str | Path,
    *,
    start_s: float = 0.0,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    source_fps: float | None = None,
) -> Iterator[tuple[float, np.ndarray]]:
    """(timestamp in s, frame) from `start_s` on, at `fps` (None: every frame), cut to the aspect of `size` and area-resized to it.

    Memory does not grow with the length. Timestamps are the file's own; `source_fps` replaces them where the file has none or lies.
    UserError where the file is missing, empty, truncated or no video, ends before `start_s`, or has no frame near a wanted time.
    """
    for frame in decode_frames(path, start_s=start_s, fps=fps, size=size, source_fps=source_fps):
        yield frame.timestamp_s, frame.image


def decode_frames(
    path: str | Path,
    *,
    start_s: float = 0.0,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    source_fps: float | None = None,
) -> Iterator[VideoFrame]:
    """Like `decode`, with the number of every frame in the file."""
    path = Path(path)
    with opened(path) as (container, stream):
        rate = source_fps or float(stream.average_rate or stream.guessed_rate or 0)
        if not rate:
            raise UserError(f"{path}: holds no frame rate; give --source-fps")
        raw = _timed_frames(path, container, stream, source_fps)
        wanted = ((time, pair) for time, pair in raw if time >= start_s - 0.5 / rate)
        picked = wanted if fps is None else resample(wanted, fps, source_fps=rate, name=str(path))
        found = False
        picture = _upright if size is None else FrameScaler(size)
        for time, (index, frame) in picked:
            found = True
            yield VideoFrame(index, time, picture(frame))
        if not found:
            raise UserError(f"{path}: expected frames from {start_s} s on, got none")


class VideoWriter:
    """`with VideoWriter("out.mp4", fps=10, size=(64, 128)) as video: video.write(frame)`: H.264 at constant quality.

    The file appears when the block ends well. The same frames give the same bytes: one thread, no dates inside. Odd sizes are padded by
    one repeated row or column, which H.264 needs.
    """

    def __init__(self, path: str | Path, *, fps: float, size: tuple[int, int], crf: int = 18) -> None:
        self.path, self.fps, self.size, self.crf = Path(path), fps, size, crf
        self._session = self._write_file()
        self._container: Any = None
        self._stream: Any = None

    def __enter__(self) -> "VideoWriter":
        self._session.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._session.__exit__(kind, error, trace)

    def write(self, frame: np.ndarray) -> None:
        """Append one uint8 (H, W, 3) RGB frame."""
        import av

        if frame.shape != (*self.size, 3) or frame.dtype != np.uint8:
            raise ValueError(f"{self.path}: expected a uint8 frame of {(*self.size, 3)}, got {frame.dtype} {frame.shape}")
        height, width = self.size
        padded = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(padded, format="rgb24")))

    @contextmanager
    def _write_file(self) -> Iterator[None]:
        import av

        options = {"movflags": "+faststart", "fflags": "+bitexact"}
        with atomic_file(self.path) as temp, av.open(str(temp), "w", format="mp4", options=options) as self._container:
            self._stream = self._container.add_stream("libx264", rate=Fraction(self.fps).limit_denominator(1001))
            height, width = self.size
            self._stream.height, self._stream.width = height + height % 2, width + width % 2
            self._stream.pix_fmt = "yuv420p"
            self._stream.options = {"crf": str(self.crf), "preset": "medium", "threads": "1"}
            yield
            self._container.mux(self._stream.encode(None))


@contextmanager
def opened(path: Path) -> Iterator[tuple["InputContainer", "VideoStream"]]:
    """The container and its first video stream; what goes wrong while they are in use is told in one line."""
    import av
    from av.error import FFmpegError

    if not path.is_file():
        raise UserError(f"{path}: no such video file")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: expected a video, got an empty file")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"{path}: expected a video, got a file without a video stream")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
    except FFmpegError as error:
        raise UserError(f"{path}: expected a video, got a truncated or foreign file ({error.strerror})") from error


def _timed_frames(
    path: Path, container: "InputContainer", stream: "VideoStream", source_fps: float | None
) -> Iterator[tuple[float, tuple[int, "Picture"]]]:
    """(timestamp in s, (number, undecoded picture)) of every frame, the first one at 0 s."""
    first: float | None = None
    count = 0
    for frame in container.decode(stream):
        time = count / source_fps if source_fps else frame.time
        if time is None:
            raise UserError(f"{path}: frame {count} has no timestamp; give --source-fps")
        first = time if first is None else first
        yield time - first, (count, frame)
        count += 1
    if count < _COMPLETE * stream.frames:
        raise UserError(f"{path}: expected {stream.frames} frames as its header says, got {count}: truncated")


def _upright(frame: "Picture") -> np.ndarray:
    """RGB picture, turned as the file's display matrix says."""
    return turned(frame.to_ndarray(format="rgb24"), frame.rotation)
