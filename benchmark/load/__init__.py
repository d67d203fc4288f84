"""A load: its loops, its generator processes, and what they did, added up."""
