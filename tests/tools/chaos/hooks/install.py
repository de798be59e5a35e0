"""Imported by `sitecustomize` in every process of the service under test."""

import os
from pathlib import Path

from . import FOLDER, clock, conduct, disk, points, threads

if FOLDER in os.environ:
    _folder = Path(os.environ[FOLDER])
    clock.install(_folder)
    conduct.install(_folder)
    points.install(_folder)
    disk.install(_folder)
    threads.install(_folder)
