"""Links between neighbouring stages."""

import os

# gRPC's core writes news of connections that end to stderr, where users look for errors; before its first import.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
