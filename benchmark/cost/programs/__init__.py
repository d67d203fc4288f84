"""Run what `cost` measures: the programs, and the servers that they need."""
