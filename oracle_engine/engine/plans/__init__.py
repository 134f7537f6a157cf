"""What a call, a pass and a cluster will take: decided and measured before any work."""
