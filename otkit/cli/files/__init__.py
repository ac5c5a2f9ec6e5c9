"""Reading of measures from files, and writing of plans to files."""

from otkit.cli.files.measure import Measure, Reading, UnusableInput
from otkit.cli.files.plans import save_plan
from otkit.cli.files.reading import FORMATS, expand, notes, read, read_all

__all__ = ["FORMATS", "Measure", "Reading", "UnusableInput", "expand", "notes", "read", "read_all", "save_plan"]
