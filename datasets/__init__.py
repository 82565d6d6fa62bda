"""The pictures: data sets, their preprocessing and their batches.

图片：各数据集、预处理与分批。
"""
