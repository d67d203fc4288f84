"""What every role stands on. Knows no NATS, no balance, no table, no subject."""
