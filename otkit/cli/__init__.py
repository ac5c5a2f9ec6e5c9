"""The command line: distances between files."""

from otkit.cli.main import main

__all__ = ["main"]
