"""Plan and apply what brings an account to its desired state, and rotate its credentials."""
