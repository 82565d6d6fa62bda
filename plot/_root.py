"""Importing this puts this folder and the project root on the path, so that a script runs from any folder.

导入即把本文件夹与项目根目录放上路径：脚本可在任何文件夹下运行。
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

for _place in (HERE.parent, HERE):  # 本文件夹在最前：ablation 也是根目录里一条命令的名字
    if str(_place) in sys.path:
        sys.path.remove(str(_place))
    sys.path.insert(0, str(_place))
