"""What no policy can undercut: a clairvoyant lower bound on the bill, and beside it a clairvoyant plan that is replayed."""
