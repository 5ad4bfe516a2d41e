"""Suites: named lists of scenarios that policies are tuned on, or judged by. The format is that of `suite`."""

from .suite import Skipped, Suite, SuiteError, data_folder, load_suite, shipped_suites

__all__ = ["Skipped", "Suite", "SuiteError", "data_folder", "load_suite", "shipped_suites"]
