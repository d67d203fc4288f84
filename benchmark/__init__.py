"""Measure how fast the service is, where its limit is and what one request costs."""

import os

# gRPC reads this on import. Without it, gRPC restarts its threads in a child between fork and exec, on closed
# descriptors, and the child dies of SIGABRT or SIGSEGV.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
