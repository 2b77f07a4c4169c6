"""Which rows of which batches get self-supervised views: a function of the position alone."""

from __future__ import annotations

from dataclasses import dataclass

from openslip.errors import ConfigError


@dataclass(frozen=True)
class Schedule:
    """Self-supervised views of a `share` of the batch, on every `every`-th step from step `start` on.

    The rows that get the views are spread evenly over the batch, so each process and each micro-batch has its part.
    Raises ConfigError if a value is out of its range, or if fewer than two rows are left to contrast.
    """

    batch: int
    """Rows of the whole batch."""
    every: int = 1
    share: float = 1.0
    start: int = 0
    """The first step with self-supervised views: how many steps before it have none."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError(
                "objective.ssl_every takes a number of steps", got=self.every, fix="Use 1 for every step."
            )
        if not 0 < self.share <= 1:
            raise ConfigError(
                "objective.ssl_share takes a share of the batch, above 0 and up to 1",
                got=self.share,
                fix="Use 1 for the whole batch. To do without self-supervised views, choose a loss that has none.",
            )
        if self.share < 1 and self.rows < 2:
            raise ConfigError(
                "At least two rows of a batch need self-supervised views",
                got=f"objective.ssl_share {self.share:g} of training.batch {self.batch}",
                fix="Raise objective.ssl_share or training.batch.",
            )

    @property
    def always(self) -> bool:
        """Whether every row of every batch gets self-supervised views."""
        return self.every_step and self.rows == self.batch

    @property
    def every_step(self) -> bool:
        """Whether there is no step without self-supervised views."""
        return self.every == 1 and self.start == 0

    @property
    def rows(self) -> int:
        """How many rows of a batch get self-supervised views, on the steps that have any."""
        return round(self.share * self.batch)

    def on(self, step: int) -> bool:
        """Return whether the step after `step` others has self-supervised views."""
        return step >= self.start and (step - self.start) % self.every == 0

    def before(self, position: int) -> int:
        """Return how many samples of the stream before `position` get self-supervised views.

        The sample at `position` gets them if the count is higher at the next position. The count at `position` is then
        its number among such samples.
        """
        step, row = divmod(position, self.batch)
        earlier = -(-max(0, step - self.start) // self.every) * self.rows
        return earlier + row * self.rows // self.batch if self.on(step) else earlier
