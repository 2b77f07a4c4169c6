"""Use a model on a collection: embed its pictures once, then search them, find duplicates, and look at them."""
