"""Help as a process gives it."""

import os
import subprocess
import sys

SLOW = (
    "apsw",
    "google.api_core",
    "google.auth",
    "google.protobuf",
    "grpc",
    "websockets",
    "websocket",
    "orjson",
    "coincurve",
    "prometheus_client",
    "jinja2",
    "asyncio",
)


def test_help_imports_nothing_slow() -> None:
    """Its time is the interpreter's and click's; how long that is depends on the machine."""
    code = (
        "import sys\nfrom pipeline.cli import main\ntry:\n    main(['--help'])\nfinally:\n"
        f"    print([name for name in {SLOW} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, env=dict(os.environ)
    )
    assert "Examples:" in done.stdout
    assert done.stderr == "[]\n"
