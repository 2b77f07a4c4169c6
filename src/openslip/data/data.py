"""The data of a run as one object: its sources, its batches, and its description."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from openslip.config import Config
from openslip.data.contents import described, losses
from openslip.data.identity import Identity, identify
from openslip.data.record import Records, Source, as_source
from openslip.data.subset import HeldOut
from openslip.needs import View

if TYPE_CHECKING:
    from openslip.data.kept import Kept
    from openslip.data.loader import Loader
    from openslip.data.schedule import Schedule


class Data:
    """The images and captions of `train`, and the images of `ssl` if the self-supervised views have their own.

    Either may be a source of a user's own class (see `openslip.data.record.Foreign`). Picklable if the sources are.
    """

    def __init__(self, train: Records, ssl: Records | None = None) -> None:
        self.train = as_source(train)
        self.ssl = None if ssl is None else as_source(ssl)

    @property
    def sources(self) -> dict[str, Source]:
        """The sources by the option that names them: `train`, and `ssl` where there is one."""
        return {"train": self.train} | ({} if self.ssl is None else {"ssl": self.ssl})

    @property
    def epoch_length(self) -> int:
        """How many samples an epoch has: the records of `train`, unless it is a mixture with weights."""
        return self.train.epoch_length

    @property
    def records(self) -> int:
        """How many records `train` has, whatever their weights: the numbers of a batch's `records` are below this."""
        return sum(part.length for part in self.train.parts)

    @property
    def held_out(self) -> HeldOut | None:
        """What is held out of `train` to measure on."""
        return self.train.held_out

    @property
    def longest_block(self) -> int:
        """How many records the longest block has, in any part of the sources."""
        return max(part.block for source in self.sources.values() for part in source.parts)

    def identity(self, *, captioned: bool) -> Identity:
        """Return what tells these data from other data (see `identify`). captioned: whether captions are used."""
        return identify(self.sources, self.held_out, captioned=captioned)

    def described(self) -> dict[str, str]:
        """Return in words, for each of `sources`, its size, what was guessed on opening, and what is left out."""
        return {
            option: "\n".join(
                [
                    f"{source.epoch_length:,} records from {source.name}",
                    *filter(None, [source.note]),
                    *described(source),
                ]
            )
            for option, source in self.sources.items()
        }

    def losses(self) -> list[str]:
        """Return a sentence for each part that loses so much that nobody should overlook it."""
        return [sentence for source in self.sources.values() for sentence in losses(source)]

    def loader(
        self,
        position: int,
        config: Config,
        views: tuple[View, ...],
        *,
        captions: int,
        labelled: bool = False,
        schedule: Schedule | None = None,
        rank: int = 0,
        world: int = 1,
        pinned: bool = False,
        own_tokenizer: bytes = b"",
        kept: Kept | None = None,
        in_turn: str = "",
        positions: Sequence[int] | None = None,
        batch: int = 0,
    ) -> Loader:
        """Return the batches of a run from a position of its stream on, as its configuration says (see `Loader`).

        views: the views to draw. captions: how many to draw of each record; 0 reads none. labelled: whether classes are
        used. batch: rows of a batch, if not as configured. own_tokenizer: the bytes of the model's own tokenizer; empty
        for CLIP's. kept, in_turn, positions: see `Loader`. Without a view to draw, loader processes have no work, so
        none start unless their number is configured.

        Raises ConfigError and DataError as `Loader` does, CheckpointError for bytes that hold no tokenizer.
        """
        from openslip.data.augment import augment_early
        from openslip.data.loader import Loader
        from openslip.data.own_tokenizer import tokenizer_of

        workers = config.data.workers
        if (
            workers < 0
            and not in_turn
            and kept is not None
            and kept.undrawn.issuperset(view.name for view in views)
        ):
            workers = 0
        return Loader(
            self,
            views=views,
            config=config.views,
            tokenizer=tokenizer_of(config.model.text, own_tokenizer) if captions else None,
            captions=max(1, captions),
            drop_words=config.data.drop_words,
            labelled=labelled,
            batch=batch or config.training.batch,
            seed=config.training.seed,
            position=position,
            rank=rank,
            world=world,
            schedule=schedule,
            decoder=config.data.decoder,
            early=augment_early if config.data.augment == "loader" else None,
            workers=workers,
            prefetch=config.data.prefetch,
            pinned=pinned,
            kept=kept,
            in_turn=in_turn,
            positions=positions,
        )
