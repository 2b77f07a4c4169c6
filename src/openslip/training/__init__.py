"""Training: from a configuration and a source to a run folder (`train.train`)."""
