"""Links between neighbouring stages."""

import os

# gRPC's core logs closed connections to stderr, where users look for errors. Set this before its first import.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
