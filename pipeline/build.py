"""What building a package does besides setup.cfg: it writes down the revision that the package is built from.

Run by setuptools alone, when nothing of the project is installed yet.
"""

import json
import os
import runpy
from pathlib import Path

from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parents[1]


class BuildWithRevision(build_py):  # type: ignore[misc]  # setuptools is untyped here
    """Adds `pipeline/build.json` to the built package."""

    def run(self) -> None:
        """Build, then write what VCS_REVISION and VCS_TIME say, or git."""
        super().run()
        given = os.environ.get("VCS_REVISION"), os.environ.get("VCS_TIME")
        found = given if all(given) else runpy.run_path(str(ROOT / "pipeline" / "version.py"))["git_revision"](ROOT)
        if found is not None and not self.editable_mode:
            target = Path(self.build_lib) / "pipeline" / "build.json"
            target.write_text(json.dumps({"revision": found[0], "time": found[1]}))
