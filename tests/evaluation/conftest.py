"""Fixtures of the reports' tests."""

from browsing import browser, opened

__all__ = ["browser", "opened"]
