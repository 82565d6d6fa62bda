"""What people read: metrics, tables, thresholds, drawings; no torch."""
