"""Files that survive a crash, and named arrays in them. Knows nothing of runs."""
