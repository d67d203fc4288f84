"""AWS's scaling, simulated on this machine."""
