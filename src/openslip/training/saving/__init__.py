"""What a run writes to disk: its folder, counts, and checkpoints, which are written in the background."""
