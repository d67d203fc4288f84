"""The whole system on one machine: nats-server, DynamoDB engine, HTTP gateway, service."""

import os

# gRPC reads it when it is imported. Otherwise it starts its threads anew in a child between fork and exec, on closed
# descriptors, and the child ends in SIGABRT or SIGSEGV.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
