"""The evaluation: policies over suites of scenarios, seed by seed, and what may be concluded from it.

`jobs` runs, `workers` spreads over processes, `rows` and `run_folder` keep, `manifest` says what was run; `tables`,
`bootstrap`, `frontier`, `shipped`, `equal_attainment` and `summary` are pure: rows in, tables out.
"""
