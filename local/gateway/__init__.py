"""The part of Synadia's HTTP gateway that this system's users need."""
