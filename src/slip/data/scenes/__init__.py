"""`scenes`: the embedded data set, small painted pictures with captions like people's."""

from __future__ import annotations

from slip.data.scenes.captions import TEMPLATES
from slip.data.scenes.source import Scenes, open_scenes
from slip.data.scenes.world import Scene

__all__ = ["TEMPLATES", "Scene", "Scenes", "open_scenes"]
