"""Projectors: from the log to DuckDB tables, and questions to those tables."""
