"""`scenes`: the embedded data set, small painted pictures with captions like people's."""

from __future__ import annotations

from openslip.scenes.captions import TEMPLATES
from openslip.scenes.source import Scenes, open_scenes
from openslip.scenes.world import Scene

__all__ = ["TEMPLATES", "Scene", "Scenes", "open_scenes"]
