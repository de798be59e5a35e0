from tests.integration.delivery.conftest import box, no_retries, no_waits

__all__ = ["box", "no_retries", "no_waits"]
