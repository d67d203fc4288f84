"""Generate a load: loops, generator processes, totals."""
