"""The tables of the docs: a module for a page, or for the benchmarks of one section of docs/benchmarks.md.

Each ends with its TABLES, from which `scripts/update_figures.py` takes them by their names. What they share: `results` reads result files,
`seeds` those of networks that were trained from several seeds, `markdown` writes tables and numbers.
"""
