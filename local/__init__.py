"""The whole system on one machine: nats-server, DynamoDB engine, HTTP gateway, service."""

import os

# gRPC reads this when it is imported. Without it, gRPC restarts its threads in a child between fork and exec, on closed
# descriptors, and the child dies of SIGABRT or SIGSEGV.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
