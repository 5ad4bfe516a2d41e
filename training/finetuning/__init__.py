"""Learning from the record of a live cluster: first of all, what its simulated twin must be told anew."""
