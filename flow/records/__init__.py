"""Runs on disk: folders that say what made them, read and compared without that code, and rerun.

`run_experiment` is what every experiment's command line does; `Record` fills a folder of a script
of one's own; `read_run` reads one, or a figure's metadata. `choice`, `positive_integer` and
`whole_steps` check an option, and `uninterrupted` ends an experiment whose run Ctrl-C has ended.
"""

from flow._core.checks import choice, positive_integer
from flow._evidence.order import whole_steps
from flow._run.trajectory import uninterrupted
from flow.records.experiment import Options, Science, run_experiment
from flow.records.reading import Run, read_run
from flow.records.record import Record, new_run_folder

__all__ = [
    "Options",
    "Record",
    "Run",
    "Science",
    "choice",
    "new_run_folder",
    "positive_integer",
    "read_run",
    "run_experiment",
    "uninterrupted",
    "whole_steps",
]
