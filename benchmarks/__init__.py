"""Speed and memory, measured against a textbook implementation in one run."""
