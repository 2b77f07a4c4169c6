"""Judge whether a source can be trained on, and say what to do about each finding."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from openslip.config import DataConfig
from openslip.data.captions import WITHOUT_CAPTIONS
from openslip.data.header import Kind
from openslip.tools.check.caption_text import LATIN, NO_LETTERS, SCRIPTS
from openslip.tools.check.commands import UNKNOWN, Commands
from openslip.tools.check.facts import DAMAGED, UNREADABLE
from openslip.tools.check.summary import Summary
from openslip.tools.check.troubles import explain

SMALL, LARGE = 64, 512
"""Short sides in pixels: a smaller picture is enlarged for every view; decoding a far larger one takes most time."""
STOP, FIX, KNOW = "stop", "fix", "know"
"""Levels of a finding: training would stop or be useless; better corrected; good to know."""

_KINDS = {
    Kind.ANIMATED: ("Animated images", "Only their first frame is used."),
    Kind.CMYK: ("CMYK images", "They are converted to RGB without a colour profile; colours may be off."),
    Kind.DEEP: ("Images of more than 8 bits a channel", "They are scaled to 8 bits."),
    Kind.ALPHA: ("Images with transparency", "They are laid on white."),
    Kind.TURNED: ("Images turned by their EXIF data", "They are set upright."),
    Kind.GREY: ("Grey images", "They are used as they are; the three channels are equal."),
    Kind.PALETTE: ("Images with a palette", "They are converted to RGB."),
}


@dataclass(frozen=True)
class Finding:
    """Something found `count` times in `of`, and what to do about it. commands: the commands that do it, in order."""

    level: str
    what: str
    count: int
    of: int
    advice: str
    commands: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        return self.count / max(1, self.of)


@dataclass(frozen=True)
class Verdict:
    """Whether the source can be trained on, in a sentence, and the findings, most important first."""

    good: bool
    sentence: str
    findings: tuple[Finding, ...]


def judge(
    summary: Summary,
    max_skipped: float = DataConfig.max_skipped,
    batch: int = 2,
    leave_broken: bool = DataConfig.leave_broken,
    commands: Commands = UNKNOWN,
) -> Verdict:
    """Return the verdict.

    max_skipped: the share of unusable records above which training stops. batch: records per step. leave_broken:
    whether training leaves out broken shards and begins without them. commands: the commands that advice names.
    """
    usable = f"{summary.usable:,} of {summary.checked:,} records"
    expected = summary.usable * summary.total // max(1, summary.checked)
    if summary.silent == summary.checked and summary.needs_captions:
        good = False
        sentence = (
            "It cannot be trained on with captions, because no record has any; self-supervision alone "
            f"({WITHOUT_CAPTIONS}) can use {int(summary.fine.sum()):,} of {summary.checked:,}"
        )
    elif not summary.usable:
        good, sentence = False, f"It cannot be trained on: not one of {summary.checked:,} records is usable"
    elif summary.unusable_share > max_skipped:
        good = False
        sentence = (
            f"It cannot be trained on as it is: only {usable} are usable, and training stops when more than "
            f"{percent(max_skipped)} are not"
        )
    elif summary.broken and not leave_broken:
        good = False
        sentence = (
            f"It cannot be trained on as it is: {summary.broken:,} of its shards cannot be read, and training does not "
            "begin without them; fetch them again, or leave them out with --data.leave-broken"
        )
    elif expected < batch:
        good = False
        sentence = (
            f"It cannot be trained on as it is: {usable} are usable, and a step takes {batch} different ones; "
            "add records, or take a smaller --training.batch"
        )
    else:
        good, sentence = True, f"It can be trained on: {usable} are usable"
        if lost := [contents for _, contents in summary.contents if contents.large_loss]:
            more = ", ".join(f"{c.lost:,} of {c.seen:,} {c.things}" for c in lost)
            sentence += f"; but {more} became no record"
    losses = [f for f in (*_records(summary, good, commands), *_left_out(summary)) if f.count]
    others = [f for f in (*_pictures(summary, commands), *_captions(summary)) if f.count]
    # Findings that cost records come first, then the most frequent.
    findings = [*losses, *sorted(others, key=lambda finding: -finding.share)]
    return Verdict(good, sentence, by_level(findings))


def by_level(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings in the order of their levels, otherwise as they are."""
    return tuple(sorted(findings, key=lambda finding: (STOP, FIX, KNOW).index(finding.level)))


def percent(share: float) -> str:
    """Return a share in percent, with the digits that matter."""
    if 0 < share < 0.0005:
        return "under 0.1 %"
    if 0.9995 < share < 1:
        return "over 99.9 %"
    digits = f"{100 * share:.1f}".removesuffix(".0") if share < 0.1 else f"{100 * share:.0f}"
    return f"{digits} %"


def megabytes(size: int) -> str:
    """Return a number of bytes in MB or GB: 3.2 MB, 1,204 GB."""
    value, unit = (size / 1e9, "GB") if size >= 1e9 else (size / 1e6, "MB")
    return f"{value:,.1f} {unit}" if value < 100 else f"{value:,.0f} {unit}"


def _records(summary: Summary, good: bool, commands: Commands) -> Iterator[Finding]:
    """Findings of records that cannot be used."""
    level, checked = FIX if good else STOP, summary.checked
    skipped = "Training skips, counts and lists them."
    yield Finding(
        level,
        "Records that cannot be read",
        summary.unreadable,
        checked,
        f"{skipped} {_reason(summary, UNREADABLE)}",
    )
    yield Finding(
        level,
        "Damaged images",
        summary.damaged,
        checked,
        f"{skipped} {_reason(summary, DAMAGED)} A conversion leaves damaged images out.",
        (commands.convert(),),
    )
    yield Finding(
        level if summary.needs_captions else KNOW,
        "Records without a caption",
        summary.silent,
        checked,
        f"{skipped} {_where_captions_come_from(summary)}Self-supervision alone (`{WITHOUT_CAPTIONS}`) needs "
        "none: check with `--captions-optional`."
        if summary.needs_captions
        else "Only self-supervision can use them.",
        (commands.check("--captions-optional"),) if summary.needs_captions else (),
    )


def _where_captions_come_from(summary: Summary) -> str:
    """Return the advice on where captions come from, with a space at the end; "" if there is no such option."""
    if "caption_column" in summary.options:
        return "If they should have captions, name the captions' place with `--data.caption-column`. "
    return ""


def _left_out(summary: Summary) -> Iterator[Finding]:
    """Findings of things in the source that became no record."""
    for name, contents in summary.contents:
        yield Finding(
            FIX if contents.large_loss else KNOW,
            f"{contents.things.capitalize()} of {name} that are not used",
            contents.lost,
            contents.seen,
            "; ".join(contents.reasons(lost_only=True)) + ".",
        )


def _reason(summary: Summary, state: int) -> str:
    """Return sentences on why the records in a state cannot be used, and what can help."""
    reasons = [t.reason for t in summary.troubles if summary.state_of(t.index) == state]
    return explain(reasons, summary.count(state))


def _pictures(summary: Summary, commands: Commands) -> Iterator[Finding]:
    """Findings of images that can be decoded."""
    fine = len(summary.sizes)
    if not fine:
        return
    short = summary.sizes.min(axis=1)
    twice = "Two copies in a batch teach the model to tell a picture from itself. Keep one of each."
    redundant, recaptioned = int(summary.redundant.sum()), int(summary.recaptioned.sum())
    yield Finding(
        FIX if redundant > 0.01 * fine else KNOW,
        "Exact copies of another image",
        redundant,
        fine,
        twice,
        commands.without_listed(),
    )
    yield Finding(
        FIX if recaptioned > 0.01 * fine else KNOW,
        "Exact copies of another image, with other captions",
        recaptioned,
        fine,
        "Each caption is worth keeping, so no copy is left out. In a batch two copies are each other's wrong answers: "
        "best is one record with all captions, as a table makes from rows that name the same file.",
    )
    yield Finding(
        FIX if summary.near_copies > 0.02 * fine else KNOW,
        "Near copies of another image",
        summary.near_copies,
        fine,
        "Resized or recompressed copies, or frames of one film; now and then things that look alike. Look at them on "
        "the page before you leave them out, too, with `--near`. Never split such a pair between training and test."
        + ("" if summary.all_compared else " So many pictures are alike that not all pairs were compared."),
        commands.without_listed("--near"),
    )
    yield Finding(
        FIX, "Blank images", len(summary.flat), fine, "One colour all over: placeholders, most likely."
    )
    yield Finding(
        FIX,
        f"Images less than {SMALL} pixels wide or high",
        int((short < SMALL).sum()),
        fine,
        "They are enlarged for every view, which shows the model blur; icons and thumbnails are best left out.",
    )
    large = int((short > LARGE).sum())
    if large > fine / 2:
        pixels = float(summary.sizes.prod(axis=1, dtype=np.float64).mean())
        shrunk = float((summary.sizes.max(axis=1) * (256.0 / short) * np.minimum(short, 256)).mean())
        yield Finding(
            KNOW,
            f"Images whose short side has more than {LARGE} pixels",
            large,
            fine,
            f"Reading takes longer than necessary: with a short side of 256, {percent(min(1.0, shrunk / pixels))} of "
            "the pixels are left.",
            (commands.convert("--short-side", "256"),),
        )
    yield _dark(summary, fine)
    for kind, count in summary.kinds().items():
        if kind in _KINDS:
            yield Finding(KNOW, _KINDS[kind][0], count, fine, _KINDS[kind][1])


def _dark(summary: Summary, fine: int) -> Finding:
    """The finding of pictures that use only a small low part of the levels of their file."""
    brightest = int(summary.records["brightest"][summary.dark].max(initial=0))
    bits = next(bits for bits in (8, 10, 12, 14) if brightest <= round(255 * (2**bits - 1) / 65535))
    return Finding(
        FIX,
        "Nearly black images of more than 8 bits a channel",
        len(summary.dark),
        fine,
        f"No level is above {percent((brightest + 0.5) / 255)} of white, as in {bits}-bit data in a 16-bit "
        f"file. Training uses them as they are: nearly black. Multiply their levels by {2 ** (16 - bits)} first "
        f"(with ImageMagick: mogrify -evaluate multiply {2 ** (16 - bits)} FILES).",
    )


def _captions(summary: Summary) -> Iterator[Finding]:
    """Findings of captions that are not empty."""
    captions = len(summary.captions)
    if not captions:
        return
    foreign = {
        name: count
        for name, count in summary.scripts().items()
        if name not in (SCRIPTS[LATIN], SCRIPTS[NO_LETTERS])
    }
    yield Finding(
        FIX,
        "Records with a caption that says nothing",
        len(summary.useless),
        summary.checked,
        "File names, numbers, web addresses, `NULL`, `nan`: noise to the model. Leave such captions empty, or choose "
        "another column.",
    )
    yield Finding(
        FIX,
        "Captions with characters of a wrong encoding",
        summary.misread,
        captions,
        "Control characters, or � for what could not be read: quotes, dashes and accents of another encoding, often "
        "Windows' CP1252 taken for LATIN1. Write the captions as UTF-8 again from their origin.",
    )
    yield Finding(
        FIX if summary.code > 0.01 * captions else KNOW,
        "Captions that hold lists, objects or HTML",
        summary.code,
        captions,
        "Brackets, tags and names of fields are noise to the model. Write the text alone. For objects in a table, name "
        "the key: `--caption-column captions.text`.",
    )
    yield Finding(
        FIX if summary.repeated > 0.1 * captions else KNOW,
        "Captions that say the same as one before",
        0 if summary.of_class.any() else summary.repeated,
        captions,
        "In a batch they are each other's wrong answers. A text that occurs by the thousand is a label or boilerplate.",
    )
    yield Finding(
        FIX if summary.over_long > 0.1 * captions else KNOW,
        f"Captions of more than {summary.context} tokens",
        summary.over_long,
        captions,
        "The model reads no further: put the important words first.",
    )
    yield Finding(
        FIX if sum(foreign.values()) > 0.1 * captions else KNOW,
        f"Captions not in Latin script ({', '.join(foreign)})",
        sum(foreign.values()),
        captions,
        "CLIP's vocabulary is English: other scripts are spelled byte by byte, and need more tokens and data to learn.",
    )


def as_text(summary: Summary, verdict: Verdict, width: int = 100) -> str:
    """Return the verdict as plain text: numbers, findings, and the sentence at the end."""
    lines = [_headline(summary), *_numbers(summary), ""]
    for finding in verdict.findings:
        mark = {STOP: "✗", FIX: "!", KNOW: "·"}[finding.level]
        text = f"{finding.what}: {finding.count:,} ({percent(finding.share)}). {finding.advice}"
        lines += textwrap.wrap(
            text, width, initial_indent=f"  {mark} ", subsequent_indent="    ", break_on_hyphens=False
        )
        # Commands are meant for copying, so each stays on one line.
        lines += [f"      {command}" for command in finding.commands]
    return "\n".join([*lines, "", *textwrap.wrap(verdict.sentence + ".", width)])


def _headline(summary: Summary) -> str:
    part = "" if summary.checked == summary.total else f" of {summary.total:,}, spread over all,"
    return f"{summary.name}: {summary.checked:,} records{part} checked"


def _numbers(summary: Summary) -> Iterator[str]:
    """Yield the lines on contents, on sizes and formats, and on caption lengths and scripts."""
    for name, contents in summary.contents:
        of = f" of {name}" if len(summary.contents) > 1 else ""
        yield f"  contents  {contents.seen:,} {contents.things}{of}, {contents.used:,} used"
        yield from (f"            {reason}" for reason in contents.reasons() if not contents.lost)
    if len(summary.sizes):
        short = summary.sizes.min(axis=1)
        formats = ", ".join(f"{name} {count:,}" for name, count in summary.formats().most_common())
        size = megabytes(int(summary.records["bytes"].sum(dtype=np.uint64)))
        yield (
            f"  images    {formats}; short side {short.min():,} to {short.max():,} pixels, middle "
            f"{np.median(short):,.0f}; {size}"
        )
    if len(summary.captions):
        tokens = summary.captions["tokens"]
        scripts = ", ".join(
            f"{name} {percent(count / len(tokens))}" for name, count in summary.scripts().most_common(5)
        )
        yield (
            f"  captions  {len(tokens):,}; {tokens.min()} to {tokens.max()} tokens, middle "
            f"{np.median(tokens):,.0f}; {scripts}"
        )
