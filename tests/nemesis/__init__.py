"""Random faults while clients work, a history of what they saw, and a checker (docs/nemesis.md)."""

import os

# gRPC's handlers of fork() end a child that is started while a call is open:
# https://github.com/grpc/grpc/blob/master/doc/fork_support.md
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
