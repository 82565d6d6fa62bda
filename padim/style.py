"""One look for every figure."""

LABEL_SIZE = 9  # pt
IMAGE_COLOUR, PIXEL_COLOUR = "#0072B2", "#D55E00"
# 十五个类别也分得清：色盲可辨的八色（Okabe–Ito）配两种线型
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D00")
LINE_STYLES = ("-", "--")


def class_line(index: int) -> dict[str, str]:
    """Colour and line style of the class at ``index`` in the legend."""
    return {"color": PALETTE[index % len(PALETTE)], "linestyle": LINE_STYLES[index // len(PALETTE) % len(LINE_STYLES)]}
