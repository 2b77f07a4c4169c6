"""Files that hold many things, read at random places and without running anything: tar, zip, Parquet, pickle."""
