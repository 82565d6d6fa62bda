"""The pictures: data sets in the MVTec layout, their preprocessing and their batches.

图片：MVTec 布局的数据集、预处理与分批。
"""
