"""Options for the data, given once for all sources: an option need not fit every source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from openslip.data.record import Source
from openslip.errors import DataError


class Misfit(DataError):
    """A source lacks what an option asks for: there is no such column, or no image in that folder."""

    def __init__(self, option: str, what: str, *, got: object = None, cause: str = "", fix: str = "") -> None:
        self.option = option
        super().__init__(what, got=got, cause=cause, fix=fix)


Open = Callable[[str, Mapping[str, str]], Source]
"""Opens a spec with these options. The source's `options` are the names of those that its format heeds."""


def open_fitting(
    specs: Sequence[str], open_one: Open, options: Mapping[str, str], *, must_fit: bool
) -> list[Source]:
    """Open each source with the options that fit it. An option that does not fit counts as not given.

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
    """Open one source; return it with the misfits by option."""
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
            # The guess is not there either: report the option that the user gave.
            if missed:
                raise next(iter(missed.values())) from None
            raise
