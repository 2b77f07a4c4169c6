"""Ablations: variants of one configuration, each trained with several seeds, and one table of what they come to.

`grid` reads the file that names the variants. `compute` counts what each costs before it runs. `running` trains
the runs one after another, and `table` has what was measured.
"""
