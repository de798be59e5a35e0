"""A runtime directory of its own for each test."""

from tests.support.runtime import process_metrics, runtime

__all__ = ["process_metrics", "runtime"]
