"""How apps are asked: the gRPC services, the registry of apps, access."""
