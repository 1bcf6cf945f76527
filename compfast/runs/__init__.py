"""Run folders: written, saved, read."""
