"""Continuous profiling of this process with Pyroscope, when the settings name a server."""

from typing import TYPE_CHECKING

from pipeline.errors import CannotStart

if TYPE_CHECKING:
    from pipeline.settings.config import Config


def start(config: "Config", stage: str, slot: str) -> None:
    """Send profiles, tagged by stage and slot, from now to the end of the process; nothing at all without a server.

    Raises `CannotStart` when a server is named and the profiler is not installed.
    """
    address = config.pyroscope_server_address
    if address is None:
        return
    try:
        import pyroscope  # noqa: PLC0415  # 5 MB of native code, for those who want it
    except ImportError:
        raise CannotStart(
            "EVENTS_PYROSCOPE_SERVER_ADDRESS needs the profiler: pip install 'event-service[pyroscope]'"
        ) from None
    pyroscope.configure(
        application_name=config.pyroscope_application_name,
        server_address=address,
        basic_auth_username=config.pyroscope_basic_auth_user or "",
        basic_auth_password=config.pyroscope_basic_auth_password or "",
        tags={"stage": stage, "slot": slot},
    )
