"""Programs that ask for a balance, one in each language, to copy."""
