"""The commands that carry out advice about a source, with the source's name and columns as they were given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from openslip.shell import can_be_shown, command, data_options

FOLDER, LIST = "cleaned", "found.jsonl"


@dataclass(frozen=True)
class Commands:
    """Command lines about a source, and the other source that it was compared with, if any.

    columns: options for columns and folders, by name: `caption_column`. Sources with passwords are not shown, and are
    called SOURCE and OTHER.
    """

    source: str = "SOURCE"
    columns: Mapping[str, object] = field(default_factory=dict)
    other: str = ""
    captions_optional: bool = False

    def check(self, *options: str) -> str:
        """Return the command that checks the source once more."""
        optional = ["--captions-optional"] if self.captions_optional else []
        return command("slip", "data", "check", *self._source, *optional, *options)

    def convert(self, *options: str) -> str:
        """Return the command that converts the source, without what is damaged."""
        return command("slip", "data", "convert", *self._source[:1], FOLDER, *self._source[1:], *options)

    def without_listed(self, *options: str) -> tuple[str, str]:
        """Return the commands that list the findings, and convert the source without them."""
        return self.check("--list", LIST), self.convert("--without", LIST, *options)

    def without_common(self) -> tuple[str, str]:
        """Return the commands that list what both sources have in common, and convert the source without that."""
        other = self.other if self.other and can_be_shown(self.other) else "OTHER"
        return self.check("--against", other, "--list", LIST), self.convert("--without", LIST)

    @property
    def _source(self) -> list[str]:
        return [self.source if can_be_shown(self.source) else "SOURCE", *data_options(self.columns)]


UNKNOWN = Commands()
"""Commands for a source whose name and options are unknown."""
