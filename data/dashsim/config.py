"""What `prepare_data.py dashsim` can be told."""

from dataclasses import dataclass
from typing import Literal, get_args

from data.dashsim.camera import CameraConfig
from data.dashsim.scene import TIMES_OF_DAY, WEATHERS, TimeOfDay, Weather
from data.errors import UserError
from data.image import parse_size

Road = Literal["highway", "merge", "two_way", "roundabout", "intersection", "racetrack"]
Traffic = Literal["none", "light", "moderate", "heavy"]
Split = Literal["train", "val", "heldout"]
ROADS: tuple[Road, ...] = get_args(Road)
TRAFFICS: tuple[Traffic, ...] = get_args(Traffic)
SPLITS: tuple[Split, ...] = get_args(Split)

HELD_OUT: tuple[tuple[Weather, TimeOfDay], ...] = (("snow", "night"), ("fog", "dusk"))
"""Looks that never enter train or val: they form the split `heldout`, to measure what was never seen together."""


@dataclass(frozen=True)
class DashsimConfig:
    """The embedded driving world: roads, weathers, drives and the camera."""

    episodes: int = 200
    """Drives in the split `train`."""
    steps: int = 150
    """Steps of a drive, in every split; 10 of them are a second."""
    val_episodes: int | None = None
    """Drives in the split `val` (default: a tenth of `episodes`, at least 8)."""
    heldout_episodes: int | None = None
    """Drives in the split `heldout`, snow at night and fog at dusk (default: as many as in `val`)."""
    long_steps: int = 600
    """Steps of every fifth drive in `val`, for long rollouts."""
    seed: int = 0
    """Decides everything: the same seed gives the same drives, bit for bit."""
    size: str = "64x128"
    """Height x width of the frames in pixels."""
    horizontal_fov_deg: float = 65.0
    """Horizontal field of view of the camera in degrees."""
    supersampling: int = 2
    """Rendered pixels per pixel and axis, averaged down."""
    mount_height_m: float = 1.3
    """Height of the camera above the road in metres."""
    pitch_deg: float = 1.8
    """Downward tilt of the camera in degrees."""
    fps: float = 10.0
    """Frames a second."""
    roads: tuple[Road, ...] = ROADS
    """Kinds of road to drive on, in turn."""
    weathers: tuple[Weather, ...] = WEATHERS
    """Weathers to draw from, each as often as the others."""
    times: tuple[TimeOfDay, ...] = TIMES_OF_DAY
    """Times of day to draw from, each as often as the others."""
    traffic: tuple[Traffic, ...] = TRAFFICS
    """How much traffic there may be; `none` is drawn half as often as the others."""
    events: float = 0.3
    """Share of the drives, in every split, in which something is staged and told in a caption of its own: a car cuts in, traffic ahead
    brakes hard, the ego car changes lanes, turns at a junction or leaves at an exit. Drives of less than 10 s hold no event."""
    strays: float = 0.2
    """Share of the train drives without an event in which the driver leaves the road now and then and comes back, so that a world
    model knows the way back. Drives of the other splits stay on their roads."""
    noise: float = 1.0
    """How much the driver wobbles, nudges and brakes without reason; 0: a perfect driver."""

    def __post_init__(self) -> None:
        for name, least in (("episodes", 1), ("steps", 2), ("long_steps", 2)):
            if getattr(self, name) < least:
                raise UserError(f"dashsim: {name} expected at least {least}, got {getattr(self, name)}")
        for name in ("val_episodes", "heldout_episodes"):
            if getattr(self, name) is not None and getattr(self, name) < 0:
                raise UserError(f"dashsim: {name} expected at least 0, got {getattr(self, name)}")
        if not 0 < self.fps <= 60:
            raise UserError(f"dashsim: fps expected above 0 and up to 60, got {self.fps}")
        for name in ("events", "strays"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"dashsim: {name} expected a share from 0 to 1, got {getattr(self, name)}")
        if self.noise < 0:
            raise UserError(f"dashsim: noise expected at least 0, got {self.noise}")
        known = {"roads": ROADS, "weathers": WEATHERS, "times": TIMES_OF_DAY, "traffic": TRAFFICS}
        for name, names in known.items():
            chosen = getattr(self, name)
            if not chosen or set(chosen) - set(names):
                raise UserError(f"dashsim: {name} expected some of {', '.join(names)}, got {', '.join(chosen) or 'none'}")
        _ = self.camera  # checks its own fields
        if not self.looks("train"):
            raise UserError(f"dashsim: weathers and times leave only held-out looks ({', '.join(' '.join(look) for look in HELD_OUT)})")

    @property
    def camera(self) -> CameraConfig:
        """What the renderer is told of the camera."""
        height, width = parse_size(self.size)
        return CameraConfig(
            height=height,
            width=width,
            horizontal_fov_deg=self.horizontal_fov_deg,
            mount_height_m=self.mount_height_m,
            pitch_deg=self.pitch_deg,
            supersample=self.supersampling,
        )

    def looks(self, split: Split) -> list[tuple[Weather, TimeOfDay]]:
        """The (weather, time of day) that a split draws from."""
        every: list[tuple[Weather, TimeOfDay]] = [(weather, time) for weather in self.weathers for time in self.times]
        return [look for look in every if (look in HELD_OUT) == (split == "heldout")]

    def drives_in(self, split: Split) -> int:
        """How many drives a split has."""
        if split == "train":
            return self.episodes
        wished = self.val_episodes if split == "val" else self.heldout_episodes
        default = self.drives_in("val") if split == "heldout" else max(8, self.episodes // 10)
        return (default if wished is None else wished) * bool(self.looks(split))
