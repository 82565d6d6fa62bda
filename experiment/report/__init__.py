"""What people read: figures of merit, tables, thresholds, drawings; no torch."""
