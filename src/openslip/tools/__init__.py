"""What `slip data …` does with a whole set: check it, convert it, show it, split it."""
