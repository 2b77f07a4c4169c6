"""What a run leaves on disk: its folder, counts, and checkpoints written in the background."""
