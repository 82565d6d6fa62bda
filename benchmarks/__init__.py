"""Speed and memory, measured against a textbook implementation in one run.

速度与内存：与教科书实现在同一次运行中对照。
"""
