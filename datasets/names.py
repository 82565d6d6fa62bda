"""The fifteen classes of MVTec AD."""

TEXTURES = ("carpet", "grid", "leather", "tile", "wood")
OBJECTS = (
    "bottle", "cable", "capsule", "hazelnut", "metal_nut", "pill", "screw", "toothbrush", "transistor", "zipper",
)  # fmt: skip
CLASSES = tuple(sorted(TEXTURES + OBJECTS))
