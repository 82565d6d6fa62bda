"""PaDiM, the method and nothing else: tensors in, tensors out.

PaDiM 方法本身（论文第 III 节）：张量进，张量出；不知道文件、选项与进程。
"""

EPSILON = 0.01  # 公式 1 的正则项 εI
PRECISIONS = ("float32", "tf32", "bf16")  # 网络前向的算术；其后总是 float32
BLOCK = 128  # 一次并入高斯（或一次求解）的图片数，至多；与批大小无关
HELD = 1 << 30  # 一块嵌入、一次前向的激活值，至多占这么多字节：图片大时，块与前向就小
