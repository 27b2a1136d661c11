"""The steering law that every driver in dashsim shares."""

import math

TIGHTEST_INV_M = 0.17
"""Curvature at which a driver has had enough steering."""


def wished_curvature(road_inv_m: float, aside_m: float, course_rad: float, speed_mps: float) -> float:
    """Curvature to drive, positive to the left, that brings a car back to its line without overshooting.

    `aside_m` is how far it is to the left of its line, `course_rad` how far its course points to the left of it, `road_inv_m`
    the line's own curvature. Along the road the offset decays like a damped spring whose length grows with speed; far from its
    line, as in a lane change, a car crosses at no more than about 15 degrees.
    """
    reach = min(max(0.85 * speed_mps, 3.5), 22.0)
    aside = min(max(aside_m, -reach / 2), reach / 2)
    wished = road_inv_m - aside / reach**2 - 1.9 * course_rad / reach
    return min(max(wished, -TIGHTEST_INV_M), TIGHTEST_INV_M)


def wheel_angle(curvature_inv_m: float, wheelbase_m: float) -> float:
    """The road wheel angle whose steady turn has this curvature, in highway-env's bicycle, steered about its middle."""
    return math.atan(2 * math.tan(math.asin(min(max(curvature_inv_m * wheelbase_m / 2, -0.9), 0.9))))


def slip_angle(wheel_rad: float) -> float:
    """How far the course of that bicycle points to the left of its heading."""
    return math.atan(math.tan(wheel_rad) / 2)
