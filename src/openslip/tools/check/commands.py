"""The commands that do what is advised about a source: with its name and columns, as they were given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from openslip.shell import can_be_shown, command, data_options

FOLDER, LIST = "cleaned", "found.jsonl"


@dataclass(frozen=True)
class Commands:
    """Command lines about a source, and the other one that it was compared with, if any.

    columns: what was said of columns and folders, by name: `caption_column`. Sources that may not be shown, because
    they have passwords in them, are called SOURCE and OTHER.
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
        """Return the command that writes it anew, without what is damaged."""
        return command("slip", "data", "convert", *self._source[:1], FOLDER, *self._source[1:], *options)

    def without_listed(self, *options: str) -> tuple[str, str]:
        """Return the commands that list what is found, and write the source anew without it."""
        return self.check("--list", LIST), self.convert("--without", LIST, *options)

    def without_common(self) -> tuple[str, str]:
        """Return the commands that list what it has in common with the other one, and write it without that."""
        other = self.other if self.other and can_be_shown(self.other) else "OTHER"
        return self.check("--against", other, "--list", LIST), self.convert("--without", LIST)

    @property
    def _source(self) -> list[str]:
        return [self.source if can_be_shown(self.source) else "SOURCE", *data_options(self.columns)]


UNKNOWN = Commands()
"""Those of a source of which only what was read is known."""
