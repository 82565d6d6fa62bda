"""The operating system: errors, files, locks, signals, memory and cores. Imports neither torch nor another room."""
