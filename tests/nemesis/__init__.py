"""Random faults while clients work, a history of what they saw, and a checker (docs/nemesis.md)."""
