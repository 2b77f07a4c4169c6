"""Two measured models side by side: which measurements they share, and how these differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from openslip.errors import ConfigError, EvaluationError
from openslip.evaluation import Result
from openslip.evaluation.compare import Difference, difference_of_seeds
from openslip.evaluation.distinct import distinct
from openslip.evaluation.measured import Measured, Model
from openslip.shell import command

_FEW = 6
"""The most names of measurements in a sentence."""

Found = tuple[Measured, Result]
Pair = tuple[list[Found], list[Found]]
"""One number of two models, from each run that has the number."""


@dataclass(frozen=True)
class Comparison:
    """Two models, and the difference of each number that both have. notes: sentences on what is left out or unsure."""

    before: Model
    after: Model
    differences: Sequence[Difference]
    notes: Sequence[str]
    by_seed: bool = False

    @property
    def meaning(self) -> str:
        """What the intervals cover, in a sentence or two."""
        others = "other samples drawn in the same way"
        covered = {one.covers for one in self.differences}
        if covered == {""}:
            several = any(count > 1 for one in self.differences for count in one.seeds)
            why = "One side is a single run, so a" if several else "A"
            return f"Intervals are for {others}. {why}nother training seed may move a number further."
        way = "Student's t of the differences of equal seeds" if self.by_seed else "Welch's t"
        said = f"Intervals are for other seeds ({way}) and for {others}."
        return said + " Where a side has a single seed, intervals are for other samples alone." * (
            "" in covered
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return the fields that a file has beside each result of the later model."""
        return [
            {
                "model": self.after.name,
                "against": self.before.name,
                **one.to_dict(),
                "unpaired": one.unpaired,
                "covers": "seeds and samples" if one.covers else "samples",
                "by_seed": self.by_seed,
                "before_seeds": one.seeds[0],
                "before_spread": one.spreads[0],
                "seeds": one.seeds[1],
                "spread": one.spreads[1],
            }
            for one in self.differences
        ]


def compare_models(
    before: Model, after: Model, *, everything: bool = False, by_seed: bool = False
) -> Comparison:
    """Return the differences of the measurements that two models share.

    Measurements are the same if their task, metric, split, prompts, settings and content are equal; if no content is
    shared, the location of the data counts. Each task is compared by its first metric; everything: by all metrics.
    by_seed: runs of both models are paired by their seeds.

    Raises EvaluationError if there is nothing to compare, ConfigError for `by_seed` without equal seeds.
    """
    if by_seed:
        _check_equal_seeds(before, after)
    pairs, rest = _matched(before, after)
    if not pairs:
        raise _nothing(before, after)
    notes = [
        note for model, results in zip((before, after), rest) if (note := _left_out(model, results, rest))
    ]
    notes += [
        f"{model.name}: {older:,} numbers of earlier checkpoints are left out."
        for model in (before, after)
        if (older := sum(run.older for run in model.runs))
    ]
    chosen = pairs if everything else _first_of_tasks(pairs)
    known, troubles = _with_outcomes(chosen)
    found = []
    for pair in chosen:
        one, other = pair
        if by_seed:
            seeds = {run.seed for run, _ in one} & {run.seed for run, _ in other}
            one, other = (
                sorted(
                    (found for found in side if found[0].seed in seeds),
                    key=lambda found: found[0].seed or 0,
                )
                for side in pair
            )
        sides = ([known[run.path, result.identity] for run, result in side] for side in (one, other))
        found.append(difference_of_seeds(*sides, by_seed=by_seed and len(one) > 1))
    for model, side in ((before, 0), (after, 1)):
        fewer = [
            f"{name} {one.after.metric} of {one.seeds[side]}"
            for name, one in zip(distinct([one.after for one in found]), found)
            if one.seeds[side] < len(model.runs)
        ]
        if fewer:
            more = f" and {len(fewer) - _FEW} more" if len(fewer) > _FEW else ""
            notes.append(
                f"{model.name}: some of its {len(model.runs)} seeds are missing: "
                f"{', '.join(fewer[:_FEW])}{more}."
            )
    return Comparison(before, after, found, [*notes, *troubles], by_seed)


def by_chance(count: int) -> str:
    """Return a sentence on how many of `count` comparisons chance would decide; "" for a single comparison."""
    if count < 2:
        return ""
    expected = f"about {round(count / 20)}" if count >= 30 else f"{count / 20:.2g}"
    return f"Of {count} comparisons of equal models, {expected} would be decided by chance."


def _kind(result: Result) -> tuple[str, ...]:
    return (result.task, result.metric, result.split, result.prompts, result.settings)


def _by_kind(model: Model) -> dict[tuple[str, ...], list[Found]]:
    found: dict[tuple[str, ...], list[Found]] = {}
    for run in model.runs:
        for result in run.results:
            found.setdefault(_kind(result), []).append((run, result))
    return found


def _matched(before: Model, after: Model) -> tuple[list[Pair], tuple[list[Result], list[Result]]]:
    """Return the measurements of both models, in the order of the first model's, and those of one model alone."""
    sides = _by_kind(before), _by_kind(after)
    pairs: list[Pair] = []
    for kind, ours in sides[0].items():
        theirs = sides[1].get(kind, [])
        same = _by(ours, "content"), _by(theirs, "content")
        shared = [content for content in same[0] if content and content in same[1]]
        if not shared:
            same = _by(ours, "data"), _by(theirs, "data")
            shared = [place for place in same[0] if place in same[1] and _may_be_same(same, place)]
        pairs += [(same[0][one], same[1][one]) for one in shared]
    taken = {id(result) for pair in pairs for side in pair for _, result in side}
    one, other = (
        [result for run in model.runs for result in run.results if id(result) not in taken]
        for model in (before, after)
    )
    return pairs, (one, other)


def _by(found: Sequence[Found], field: str) -> dict[str, list[Found]]:
    """Return results by the value of a field; for each run, the last result."""
    values: dict[str, dict[object, Found]] = {}
    for run, result in found:
        values.setdefault(getattr(result, field), {})[run.path] = run, result
    return {value: list(of.values()) for value, of in values.items()}


def _may_be_same(same: tuple[dict[str, list[Found]], dict[str, list[Found]]], place: str) -> bool:
    """Whether results of one location may be of the same data. Results without a content digest may not be, if their
    numbers of samples differ."""
    found = [result for side in same for _, result in side[place]]
    return all(result.content for result in found) or len({one.count + one.skipped for one in found}) == 1


def _first_of_tasks(pairs: Sequence[Pair]) -> list[Pair]:
    first: dict[tuple[str, ...], Pair] = {}
    for pair in pairs:
        ((_, result), *_), ((_, other), *_) = pair
        task, _, *rest = _kind(result)
        same = result.content if result.content == other.content else result.data
        first.setdefault((task, *rest, same), pair)
    return list(first.values())


def _with_outcomes(pairs: Sequence[Pair]) -> tuple[dict[tuple[Any, ...], Result], list[str]]:
    """Return the results with their outcomes, by file and identity, and sentences on outcomes that cannot be used."""
    wanted: dict[Any, tuple[Measured, list[Result]]] = {}
    for pair in pairs:
        for side in pair:
            for run, result in side:
                wanted.setdefault(run.path, (run, []))[1].append(result)
    known, troubles = {}, []
    for path, (run, results) in wanted.items():
        found, wrong = run.with_outcomes(results)
        troubles += wrong
        known |= {(path, result.identity): result for result in found}
    return known, troubles


def _left_out(model: Model, results: Sequence[Result], rest: tuple[list[Result], list[Result]]) -> str:
    """Return a sentence on the measurements of a model alone, named apart from those of the other model alone."""
    if not results:
        return ""
    every = [*rest[0], *rest[1]]
    named = {id(result): name for result, name in zip(every, distinct(every))}
    names = list(dict.fromkeys(named[id(result)] for result in results))
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return f"Left out, only in {model.name}: {', '.join(names[:_FEW])}{more} ({len(results):,} numbers)."


def _check_equal_seeds(before: Model, after: Model) -> None:
    if (
        min(len(before.runs), len(after.runs)) < 2
        or {*before.seeds} != {*after.seeds}
        or None in before.seeds
    ):
        told = (f"{model.name}: {', '.join(map(str, model.seeds))}" for model in (before, after))
        raise ConfigError(
            "--by-seed needs two or more seeds, the same seeds on both sides",
            got="; ".join(told),
            fix="Leave --by-seed out",
        )


def _nothing(before: Model, after: Model) -> EvaluationError:
    told = []
    for model in (before, after):
        results = [result for run in model.runs for result in run.results]
        names = list(dict.fromkeys(distinct(results)))
        more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
        told.append(f"{model.name}: {', '.join(names[:_FEW])}{more}" if names else f"{model.name}: nothing")
    known, lacking = (before, after) if any(run.results for run in before.runs) else (after, before)
    first = next((result for run in known.runs for result in run.results), None)
    ways = ""
    if first is not None:
        task = f"{first.task.partition(':')[0]}:{first.data or first.task.partition(':')[2]}"
        run = lacking.runs[0]
        place = "MODEL" if run.training is None else str(run.path.parent)
        asked = f" with the same {'prompts' if first.prompts else 'settings'}"
        ways = f"`{command('slip', 'evaluate', place, task)}` measures {lacking.name} as well"
        ways += asked if first.settings or first.prompts else ""
    return EvaluationError(
        f"{before.name} and {after.name} have no measurement in common",
        got="; ".join(told),
        cause="Measurements are compared only if their task, data, split, prompts and settings are equal",
        fix=ways or "`slip evaluate RUN TASK …` measures a run",
    )
