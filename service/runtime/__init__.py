"""What every role stands on. Knows no balance, no table, no subject."""
