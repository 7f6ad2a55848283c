"""Fixtures of the reports' tests."""

from browsing import browser, opened, page_of, wrong

__all__ = ["browser", "opened", "page_of", "wrong"]
