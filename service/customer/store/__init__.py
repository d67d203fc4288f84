"""The clients' rows: contents, batched look-ups and seeding."""
