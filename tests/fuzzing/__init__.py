"""A seeded fuzz over every reader of what others wrote: damaged samples are read, or refused in words.

A new reader joins by `register`, see `readers`.
`python -m fuzzing [NAME…] [--count 300] [--seed 1]`, in `tests`, runs it by hand.
"""
