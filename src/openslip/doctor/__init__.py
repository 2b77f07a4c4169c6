"""Whether an installation works, and on what: packages and extras, the machine, and a self-test of a minute.

`installed` asks Python's records of packages, `machine` the machine and torch, `selftest` trains, loads and searches.
Nothing here is imported before it is asked for, since what `slip doctor` looks for is what cannot be imported.
"""
