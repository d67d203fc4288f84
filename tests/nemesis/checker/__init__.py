"""What a run's history must be: its records, and the invariants that judge it."""
