"""Classes of the generated set ``shapes``; `datasets/make_shapes.py` draws it.

Things differ by their outline, stuff by its texture. Things of a class have a typical hue that
jitters into its neighbours'; stuff has any colour. The colours here are those of visualisations.
"""

_THINGS = {
    "disc": [220, 20, 60],
    "ring": [0, 82, 199],
    "triangle": [255, 176, 0],
    "star": [106, 0, 228],
    "bar": [0, 140, 90],
}
_STUFF = {
    "stripes": [134, 199, 156],
    "checks": [169, 164, 131],
    "dots": [120, 166, 196],
    "grain": [206, 186, 171],
}

SHAPES_CATEGORIES: list[dict] = [
    {"id": i, "name": name, "isthing": int(name in _THINGS), "color": color, "supercategory": kind}
    for i, (name, color, kind) in enumerate(
        [(n, c, "shape") for n, c in _THINGS.items()]
        + [(n, c, "texture") for n, c in _STUFF.items()],
        start=1,
    )
]
"""COCO panoptic categories: ``id`` from 1, ``name``, ``isthing``, ``color`` (RGB)."""
