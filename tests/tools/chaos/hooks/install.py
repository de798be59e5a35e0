"""Imported by `sitecustomize` in every process of the service under test."""

import os
from pathlib import Path

from . import FOLDER, clock, disk, points, threads, transaction_monitor

if FOLDER in os.environ:
    _folder = Path(os.environ[FOLDER])
    clock.install(_folder)
    transaction_monitor.install(_folder)
    points.install(_folder)
    disk.install(_folder)
    threads.install(_folder)
