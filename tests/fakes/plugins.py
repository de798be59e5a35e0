"""Installed packages that bring a sink: modules and their entry points in a folder that is put on the path."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

GROUP = "event_service.sinks"


def install(folder: Path, name: str, entry_points: Mapping[str, str]) -> None:
    """Write the metadata of a distribution, as pip does, into `folder`."""
    metadata = folder / f"{name}-1.0.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0.0\n")
    lines = "".join(f"{entry} = {target}\n" for entry, target in entry_points.items())
    (metadata / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}")


def install_sample(folder: Path, project: Path) -> None:
    """Install the metadata of a project and its modules."""
    settings = tomllib.loads((project / "pyproject.toml").read_text())
    install(folder, settings["project"]["name"].replace("-", "_"), settings["project"]["entry-points"][GROUP])
    for module in settings["tool"]["setuptools"]["py-modules"]:
        (folder / f"{module}.py").write_text((project / f"{module}.py").read_text())
