"""Runs on disk: folders that say what made them, read and compared without that code, and rerun.

`run_experiment` is what every experiment's command line does; `Record` fills a folder of a script
of one's own; `read_run` reads one, or a figure's metadata.
"""

from flow.records.experiment import Options, Science, run_experiment
from flow.records.reading import Run, read_run
from flow.records.record import Record, new_run_folder

__all__ = [
    "Options",
    "Record",
    "Run",
    "Science",
    "new_run_folder",
    "read_run",
    "run_experiment",
]
