"""A recipe whose steps take next to no time, for runs that are about everything else."""

TINY = [
    "scenes-tiny", "--training.batch", "8", "--views.size", "16",
    "--model.image.name", "vit", "--model.image.patch", "8", "--model.image.width", "16", "--model.image.depth", "2",
    "--model.image.heads", "2", "--model.image.drop-path", "0.1",
    "--model.text.width", "32", "--model.text.depth", "1", "--objective.simclr.width", "32",
    "--checkpoint.every-steps", "4", "--data.workers", "0", "--evaluation.tasks",
]  # fmt: skip
"""The beginning of a command line: recipe and options."""
