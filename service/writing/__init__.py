"""Move messages from a source into a table. A role supplies the row maker, and the place for dead letters."""
