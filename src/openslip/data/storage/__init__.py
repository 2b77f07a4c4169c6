"""Bytes wherever they are: what a spec stands for, files on disk and behind URLs, requests that are tried again."""
