"""What every program of ours needs that runs as a service: its log, its service manager, its configuration file."""
