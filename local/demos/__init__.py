"""The three demonstrations: shown to a person, checked, cleaned up."""
