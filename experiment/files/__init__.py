"""What lies on the disk: where it is, what it is called, what it was made from; no torch."""
