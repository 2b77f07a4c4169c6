"""Ablations: variants of one configuration, each trained with several seeds, and one table of their results.

`grid` reads the file that names the variants. `compute` counts what each variant costs before it runs. `running`
trains the runs one after another, and `table` shows what was measured.
"""
