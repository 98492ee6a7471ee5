"""What every long-running role has for its operator (floor 3): sockets, metrics, systemd."""
