"""Kinds of driving data, a module each, found by name."""

from importlib import import_module

from data.source import Source

SOURCES = (
    "dashsim",
    "video",
    "comma2k19",
    "commavq",
    "kitti",
    "nuscenes",
    "waymo",
    "lerobot",
    "donkeycar",
    "carla",
    "npz",
    "physics",
)


def source(name: str) -> Source:
    """The source of a name out of SOURCES."""
    return import_module(f"data.sources.{name}").SOURCE
