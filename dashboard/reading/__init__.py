"""What pages show, as plain tables: read from the store, a decision log, and the folders of evaluations and training."""
