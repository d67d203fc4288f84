"""Results: file, tables, page, thresholds."""
