"""Embeddings of many pictures, and what can be found among them."""
