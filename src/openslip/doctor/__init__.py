"""Examine an installation: packages and extras, the machine, and a self-test of a minute.

`installed` asks Python's records of packages. `machine` asks the machine and torch. `selftest` trains, loads and
searches. `slip doctor` looks for what cannot be imported, so each module is imported only when its part is due.
"""
