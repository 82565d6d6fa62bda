"""The predecessors that PaDiM is compared with, on the same network code, maps and pictures.

与 PaDiM 对照的两个前身。
"""
