"""The clients' rows: what is in them, how they are looked up together, and how they are seeded."""
