"""Kits that check other people's programs against the contract, on real sockets and real processes."""
