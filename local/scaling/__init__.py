"""What AWS' scaling does, on this machine."""
