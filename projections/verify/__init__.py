"""Checking the tables against the log with a second fold, in plain Python: `cas verify`."""
