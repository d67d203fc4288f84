"""What the command line of the control plane takes and prints."""
