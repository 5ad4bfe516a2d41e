"""What is measured: one collector a source, one pure assembly into a Snapshot."""
