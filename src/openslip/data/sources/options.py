"""What a person asks for about the data, in one place for all of them: it need not fit every one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from openslip.data.record import Source
from openslip.errors import DataError


class Misfit(DataError):
    """A source does not have what was asked for by an option: no such column, no images in that folder."""

    def __init__(self, option: str, what: str, *, got: object = None, cause: str = "", fix: str = "") -> None:
        self.option = option
        super().__init__(what, got=got, cause=cause, fix=fix)


Open = Callable[[str, Mapping[str, str]], Source]
"""Opens a spec with such options. The source's `options` are the names of those that its format heeds."""


def open_fitting(
    specs: Sequence[str], open_one: Open, options: Mapping[str, str], *, must_fit: bool
) -> list[Source]:
    """Open sources with the options that fit each; where one does not, what it would say is guessed as if not given.

    Raises DataError as `open_one` does; with `must_fit` also when an option fits none of the sources that heed it.
    """
    sources, misfits, fitted = [], {}, set()
    for spec in specs:
        source, missed = _open(spec, open_one, dict(options))
        sources.append(source)
        fitted |= set(source.options) - missed.keys()
        misfits = missed | misfits
    for option, misfit in misfits.items():
        if must_fit and option not in fitted:
            raise misfit
    return sources


def _open(spec: str, open_one: Open, options: dict[str, str]) -> tuple[Source, dict[str, Misfit]]:
    """Open one source; return it with what did not fit."""
    missed: dict[str, Misfit] = {}
    while True:
        try:
            return open_one(spec, options), missed
        except Misfit as misfit:
            if not options.get(misfit.option):
                raise next(iter(missed.values()), misfit) from None
            missed[misfit.option] = misfit
            options[misfit.option] = ""
        except DataError:
            # What is guessed instead is not there either: the person should hear of what was asked for.
            if missed:
                raise next(iter(missed.values())) from None
            raise
