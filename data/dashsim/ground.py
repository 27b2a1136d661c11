"""The ground: grass or snow, verge, asphalt and paint, lit and seen through the air."""

from dataclasses import dataclass

import cv2
import numpy as np

from data.dashsim.camera import Camera, Pose
from data.dashsim.lighting import Lighting
from data.dashsim.looks import Look
from data.dashsim.noise import band_noise, smoothstep
from data.dashsim.scene import RoadMap
from data.dashsim.strips import Ribbon, StripSet, fill_strips

ASPHALT_MARGIN_M = 0.35
"""Asphalt reaches this far beyond a lane's edge, verges VERGE_M."""
VERGE_M = 1.6
DASH_M, GAP_M = 3.0, 6.0
_PAINT_WIDER = 1.35
"""Lines are drawn a little bolder than they are: at 64x128 a true one is half a pixel wide at 30 m."""
_ROAD_FAR_M, _PAINT_FAR_M, _TRACKS_FAR_M = 260.0, 130.0, 70.0
_HAZE_FAR_M = 600.0
_TILE = 256


def _rgb(red: float, green: float, blue: float) -> np.ndarray:
    return np.array([red, green, blue], np.float32)


_PAINTS = {"white": _rgb(232, 232, 228), "yellow": _rgb(236, 184, 58)}
_MEADOWS = (_rgb(86, 112, 52), _rgb(112, 116, 58), _rgb(74, 104, 58), _rgb(128, 116, 66))


@dataclass(frozen=True, eq=False)
class Coverage:
    """What lies where, uint8 (H', W) each, rows from camera.first_ground_row on."""

    verge: np.ndarray
    asphalt: np.ndarray
    tracks: np.ndarray
    white: np.ndarray
    yellow: np.ndarray


@dataclass(frozen=True, eq=False)
class Shade:
    """What other things do to the light on the ground, uint8 (H', W) each."""

    contact: np.ndarray
    """Where a car stands on it."""
    sun: np.ndarray | None
    """Where no sun falls; None without sun."""
    pools: np.ndarray | None
    """Light of other cars' lamps; None where it would not be seen."""


class Ground:
    """The flat world of one drive: pieces of road and textures, both anchored in the world."""

    def __init__(self, road: RoadMap, look: Look, camera: Camera, lighting: Lighting, rng: np.random.Generator) -> None:
        self._camera, self._look, self._lighting = camera, look, lighting
        lanes = [Ribbon.through(lane.centre_m) for lane in road.lanes]
        halves = [lane.width_m / 2 for lane in road.lanes]
        self._verge = StripSet.along(lanes, [half + VERGE_M for half in halves])
        self._asphalt = StripSet.along(lanes, [half + ASPHALT_MARGIN_M for half in halves])
        self._tracks = [StripSet.along(lanes, [0.33] * len(lanes), offset) for offset in (-0.8, 0.8)]
        self._solid, self._dashed, self._dash_lines = {}, {}, {}
        for colour in _PAINTS:
            chosen = [line for line in road.paint if line.colour == colour]
            ribbons = {dashed: [Ribbon.through(line.points_m) for line in chosen if line.dashed == dashed] for dashed in (False, True)}
            half = {dashed: [_PAINT_WIDER * line.width_m / 2 for line in chosen if line.dashed == dashed] for dashed in (False, True)}
            self._solid[colour] = StripSet.along(ribbons[False], half[False])
            self._dash_lines[colour] = StripSet.along(ribbons[True], half[True], segments=3)
            self._dashed[colour] = StripSet.dashes(ribbons[True], half[True], DASH_M, GAP_M)
        self._prepare_texture(rng)
        self._prepare_light()
        self._prepare_colours(rng)

    def _prepare_texture(self, rng: np.random.Generator) -> None:
        grid = self._camera.ground_grid()
        self._grid = grid.astype(np.float32)
        self._noises = []
        row_m = np.abs(np.gradient(grid[..., 0], axis=0))  # metres of ground between two rows
        for metres, wave_m in ((256.0, 14.0), (48.0, 2.2)):
            tile = band_noise(rng, _TILE, _TILE, wave_m / metres * _TILE, wave_m / metres * _TILE)
            # Texture fades where the rows would sample it too coarsely.
            fade = smoothstep(0.45, 0.12, row_m / wave_m).astype(np.float32)
            self._noises.append((_TILE / metres, np.clip(tile, -2.0, 2.0), fade))

    def _prepare_light(self) -> None:
        # The air hides no more than at _HAZE_FAR_M, or a bright line would stand at the horizon.
        light, reach = self._lighting, np.linalg.norm(self._grid, axis=-1).astype(np.float64)
        air = light.transmission(np.minimum(reach, _HAZE_FAR_M))[..., None]
        points = np.concatenate([self._grid, np.zeros_like(self._grid[..., :1])], axis=-1)
        flat = light.ambient + light.direct * light.sun[2] + light.beam(points)[..., None] * light.beam_colour
        self._lit = (flat * air).astype(np.float32)
        self._sunlit = (light.direct * light.sun[2] * air).astype(np.float32)
        self._haze = (light.veil(self._camera.rays[self._camera.first_ground_row :]) * (1 - air)).astype(np.float32)
        grazing = np.arctan2(self._camera.config.mount_height_m, reach)
        self.mirror_share = (self._look.wet * (0.18 + 0.6 * np.exp(-grazing / 0.13)))[..., None].astype(np.float32)
        """How much of what it mirrors a wet road shows, float32 (H', W, 1)."""

    def _prepare_colours(self, rng: np.random.Generator) -> None:
        snow = self._look.snow
        meadow = _MEADOWS[rng.integers(len(_MEADOWS))]
        wet = 0.78 if self._look.wet else 1.0
        self._grass = meadow + snow * (_rgb(226, 230, 236) - meadow)
        self._verge_colour = _rgb(134, 124, 106) + snow * _rgb(78, 92, 116)
        self._asphalt_colour = wet * _rgb(92, 93, 97) + snow * _rgb(68, 70, 74)
        self._track_colour = wet * _rgb(82, 83, 87) + snow * _rgb(24, 24, 26)
        self._track_share = 0.45 + 0.2 * snow
        self._paint_share = 1.0 - 0.25 * snow

    def coverage(self, pose: Pose) -> Coverage:
        """Draws the road's pieces as seen from `pose`."""
        verge, asphalt, tracks, white, yellow = (np.zeros(self._grid.shape[:2], np.uint8) for _ in range(5))
        camera = self._camera
        for mask, strips, far in ((verge, self._verge, _ROAD_FAR_M), (asphalt, self._asphalt, _ROAD_FAR_M)):
            edges, depth = strips.visible(camera, pose, far)
            fill_strips(mask, edges, np.full(len(depth), 255.0), camera)
        for strips in self._tracks:
            edges, depth = strips.visible(camera, pose, _TRACKS_FAR_M)
            fill_strips(tracks, edges, 255.0 * smoothstep(_TRACKS_FAR_M, 30.0, depth), camera, thin=True)
        for mask, colour in ((white, "white"), (yellow, "yellow")):
            self._paint(mask, colour, pose)
        return Coverage(verge, asphalt, tracks, white, yellow)

    def _paint(self, mask: np.ndarray, colour: str, pose: Pose) -> None:
        camera = self._camera
        edges, depth = self._solid[colour].visible(camera, pose, _PAINT_FAR_M)
        fade = smoothstep(_PAINT_FAR_M, 0.6 * _PAINT_FAR_M, depth)
        fill_strips(mask, edges, 255.0 * fade, camera, thin=True)
        # Far dashes are shorter than a row: they turn into a faint line of the same mean brightness.
        far, near = (float(np.sqrt(camera.focal_px * camera.config.mount_height_m * (DASH_M + GAP_M) / rows)) for rows in (2.6, 6.0))
        share = DASH_M / (DASH_M + GAP_M)
        edges, depth = self._dash_lines[colour].visible(camera, pose, _PAINT_FAR_M)
        values = 255.0 * share * smoothstep(near, far, depth) * smoothstep(_PAINT_FAR_M, 0.6 * _PAINT_FAR_M, depth)
        fill_strips(mask, edges[values > 1], values[values > 1], camera, thin=True)
        edges, depth = self._dashed[colour].visible(camera, pose, far)
        fill_strips(mask, edges, 255.0 * (1 - (1 - share) * smoothstep(near, far, depth)), camera, thin=True)

    def noises(self, pose: Pose) -> list[np.ndarray]:
        """Coarse and fine texture, float32 (H', W), about -1..1, already faded with distance."""
        cos, sin = np.float32(np.cos(pose.yaw_rad)), np.float32(np.sin(pose.yaw_rad))
        x = self._grid[..., 0] * cos - self._grid[..., 1] * sin
        y = self._grid[..., 0] * sin + self._grid[..., 1] * cos
        fields = []
        for per_m, tile, fade in self._noises:
            # The offset is taken modulo the tile in float64: no drift of precision far from the origin.
            map_x = x * np.float32(per_m) + np.float32(pose.x_m * per_m % _TILE)
            map_y = y * np.float32(per_m) + np.float32(pose.y_m * per_m % _TILE)
            fields.append(cv2.remap(tile, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP) * fade)
        return fields

    def render(self, pose: Pose, cover: Coverage, shade: Shade) -> np.ndarray:
        """(H', W, 3) float32, about 0..255."""
        coarse, fine = self.noises(pose)
        picture = self._grass * (1.0 + 0.10 * coarse + 0.05 * fine)[..., None]
        _blend(picture, self._verge_colour, cover.verge, 0.85)
        _blend(picture, self._asphalt_colour, cover.asphalt)
        _blend(picture, self._track_colour, cover.tracks, self._track_share)
        picture *= (1.0 + 0.02 * fine + 0.02 * coarse - shade.contact * np.float32(0.6 / 255))[..., None]
        for colour, mask in (("white", cover.white), ("yellow", cover.yellow)):
            if mask.any():
                _blend(picture, _PAINTS[colour], mask, self._paint_share)
        light = self._lit
        if shade.sun is not None:
            light = light - (shade.sun * np.float32(1 / 255))[..., None] * self._sunlit
        if shade.pools is not None:
            light = light + (shade.pools * np.float32(0.45 * self._look.beam / 255))[..., None] * self._lighting.lamp_colour
        picture *= light
        picture += self._haze
        return picture


def _blend(picture: np.ndarray, colour: np.ndarray, mask: np.ndarray, share: float = 1.0) -> None:
    """Mixes a colour into float32 (H', W, 3) where mask, uint8 (H', W), says so."""
    weight = (mask * np.float32(share / 255.0))[..., None]
    picture += weight * (colour - picture)
