"""A real systemd as the first process of namespaces of its own, over a throw-away copy of this machine's files.

What is installed inside is gone with the box; its network is the machine's own. Needs root, `unshare`, `nsenter` and
Debian's systemd. Of a unit's sandbox only `PrivateDevices=` cannot be had, since no device can be made inside.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path
from time import monotonic
from typing import Self

from tests.fakes.net import pause
from tests.fakes.procs import process

SYSTEMD = Path("/lib/systemd/systemd")
START_S = 120.0
# As sudo sets it: the machine's own programs, not those of whoever runs the tests.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DEVICES = "null zero full random urandom tty"
_BOOT = f"""
set -e
mount --make-rprivate /
mount -t tmpfs layers "$1/layers"
mkdir "$1/layers/upper" "$1/layers/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/layers/upper,workdir=$1/layers/work" "$1/root"
cd "$1/root"
mount -t proc proc proc
mount --rbind /sys sys
for folder in run tmp dev; do mount -t tmpfs -o mode=755 tmpfs "$folder"; done
chmod 1777 tmp
for device in {_DEVICES}; do touch "dev/$device"; mount --bind "/dev/$device" "dev/$device"; done
mkdir dev/shm dev/pts old
mount -t tmpfs tmpfs dev/shm
umount -R sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 sys/fs/cgroup
pivot_root . old
umount -l old
mount --make-rshared /
exec env -i PATH={_PATH} container=box {SYSTEMD} --system --unit=basic.target --log-target=journal --show-status=0
"""


def missing() -> str:
    """Why there can be no box here; empty where there can."""
    if os.geteuid() != 0:
        return "needs root"
    if not SYSTEMD.exists():
        return "systemd is not installed"
    programs = [name for name in ("unshare", "nsenter", "pivot_root") if shutil.which(name) is None]
    return f"{', '.join(programs)} is not installed" if programs else ""


class SystemdBox:
    """One such machine in the machine, as a context manager that ends it with all that runs inside."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pid = 0

    def __enter__(self) -> Self:
        for name in ("layers", "root"):
            (self._directory / name).mkdir(parents=True)
        console = (self._directory / "console").open("wb")
        namespaces = ["unshare", "--mount", "--pid", "--fork", "--cgroup", "--ipc", "--uts", "--kill-child"]
        with console:
            self._outer = subprocess.Popen(
                [*namespaces, "bash", "-c", _BOOT, "boot", str(self._directory)], stdout=console, stderr=console
            )
        try:
            self._wait_until_up()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait_until_up(self) -> None:
        deadline = monotonic() + START_S
        while True:
            self._pid = self._pid or _child_of(self._outer.pid)
            if self._pid and self.run("systemctl is-system-running", check=False).strip() in ("running", "degraded"):
                return
            if self._outer.poll() is not None or monotonic() > deadline:
                raise RuntimeError(f"the box does not come up: {(self._directory / 'console').read_text()[-2000:]}")
            pause(0.2)

    def run(self, script: str, *, folder: str = "/", check: bool = True, stdin: bytes | None = None) -> str:
        """What a script for any shell prints inside, as root; raises with all that it said if it fails."""
        sudo = 'sudo() { "$@"; }'
        done = subprocess.run(
            [
                "nsenter", "-t", str(self._pid), "-m", "-p", "-i", "-u", "-C", "-r", "-w",
                "env", "-i", f"PATH={_PATH}", "HOME=/root", "sh", "-euc", f"cd {folder}\n{sudo}\n{script}",
            ],
            input=stdin, capture_output=True, check=False, timeout=600,
        )  # fmt: skip
        said = done.stdout.decode(errors="replace")
        if check and done.returncode != 0:
            errors = done.stderr.decode(errors="replace")
            raise AssertionError(f"{script!r} ended with {done.returncode}:\n{said[-4000:]}\n{errors[-4000:]}")
        return said

    def exit_code(self, script: str) -> int:
        """How a script ends inside."""
        return int(self.run(f"code=0; ({script}) >/dev/null 2>&1 || code=$?; echo $code"))

    def put(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file inside."""
        self.run(f"install -D -m {mode:04o} /dev/stdin {path}", stdin=text.encode())

    def copy_tree(self, root: Path, names: list[str], target: str) -> None:
        """Copy files below `root` to a folder inside, as a clone does."""
        packed = BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for name in names:
                archive.add(root / name, name)
        self.run(f"mkdir -p {target} && tar x -C {target}", stdin=packed.getvalue())

    def close(self) -> None:
        """End the first process inside, and with it all others."""
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        self._outer.kill()
        self._outer.wait(30)


def _child_of(parent: int) -> int:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (found := process(int(entry.name))) is not None and found.parent == parent:
            return found.pid
    return 0
