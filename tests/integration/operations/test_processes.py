"""What `ps` shows of a running service."""

import subprocess
from pathlib import Path

from tests.fakes.service import EventService, settings


def test_ps_names_stage_and_slot_of_every_process(tmp_path: Path) -> None:
    with EventService(tmp_path, settings(EVENTS_CRAWLERS="2")) as service:
        pids = [stage.pid for stage in service.stages()]
        columns = ["ps", "-ww", "-o", "pid=,comm=,args=", "-p", ",".join(map(str, [*pids, service.child.process.pid]))]
        shown = subprocess.run(columns, capture_output=True, text=True, check=True).stdout
    by_name = {line.split()[1]: line.split(maxsplit=2)[2] for line in shown.splitlines()}
    stages = ("crawler-0", "crawler-1", "saver-0", "forwarder-0", "sender-0", "server-0", "sweeper-0")
    assert set(by_name) == {"supervisor", *stages}
    for name in stages:
        stage, _, slot = name.partition("-")
        assert f" stage {stage} --slot {slot}" in by_name[name]
    assert by_name["supervisor"].endswith(" supervise")
