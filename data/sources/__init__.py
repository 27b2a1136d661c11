"""Kinds of driving data, a module each, found by name."""

from importlib import import_module

from data.source import Source

SOURCES = ("dashsim", "video", "donkeycar")


def source(name: str) -> Source:
    """The source of a name out of SOURCES."""
    return import_module(f"data.sources.{name}").SOURCE
