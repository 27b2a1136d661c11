"""Those who play a part in a staged event: another car, and the driver of the ego car."""

from dataclasses import replace

from data.dashsim.driver import Driver, Manoeuvre
from data.dashsim.streets import OnStreets
from data.dashsim.traffic import TrafficCar

GENTLEST_MPS2 = -2.5
"""Hardest that the ego car brakes for somebody who cuts in but is the faster one and draws away."""


class StagedCar(TrafficCar):
    """A car that is told how fast to go and where, but never runs into others; a car like any other once it is released."""

    command_mps2: float | None = None
    """Acceleration that it is told; None: it drives as it likes."""
    bend_pace = 1.25
    stays: bool = True
    """Whether it keeps to the lane that it is told."""

    def act(self, action: dict | str | None = None) -> None:
        super().act(action)
        if self.command_mps2 is not None:
            self.action["acceleration"] = min(self.command_mps2, self.action["acceleration"])

    def change_lane_policy(self) -> None:
        if not self.stays:
            super().change_lane_policy()

    def release(self, wished_mps: float) -> None:
        """Let it drive on as it likes, in its lane."""
        self.command_mps2, self.wished_mps = None, wished_mps


class StagedDriver(Driver):
    """The ego car's driver, who keeps calm while an event is under way or yet to come, and changes lanes when told to."""

    calm = True
    leaves = False
    """Whether it may use lanes that only lead off the road."""

    def _next_manoeuvre(self) -> Manoeuvre:
        if not self.calm:
            return super()._next_manoeuvre()
        return replace(self.manoeuvre, kind="keep", amount=0.0, until_s=self.time_s + 1.0)

    def _consider_lanes(self) -> None:
        if not self.calm:
            super()._consider_lanes()

    def _beside(self, side: int) -> tuple[str, str, int] | None:
        start, end, lane = self.car.target_lane_index
        other = lane - side
        lanes = self.car.road.network.road((start, end))
        if self.leaves and 0 <= other < len(lanes) and lanes[other].forbidden:
            return start, end, other
        return super()._beside(side)

    def change_lane(self, side: int) -> bool:
        """Change lanes to the left (1) or right (-1) if there is a lane with room in it; returns whether it does."""
        return not self.change and self.car.lane_index == self.car.target_lane_index and self._try_change(side)

    def _following_acceleration(self, front: OnStreets) -> float:
        wish = super()._following_acceleration(front)
        draws_away = front.speed > self.car.speed and self._gap(front) > 3.0
        return max(wish, GENTLEST_MPS2) if draws_away else wish
