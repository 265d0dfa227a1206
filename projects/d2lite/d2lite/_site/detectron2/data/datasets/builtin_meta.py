"""Names, colours and ids of the categories of COCO and ADE20K."""

import re

from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

# As COCO's panoptic annotations say. torchvision has the names of things by id, up to 90, with a
# filler where COCO has no category.
_COCO_THINGS = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
_COCO_STUFF = """
92 banner; 93 blanket; 95 bridge; 100 cardboard; 107 counter; 109 curtain; 112 door-stuff;
118 floor-wood; 119 flower; 122 fruit; 125 gravel; 128 house; 130 light; 133 mirror-stuff; 138 net;
141 pillow; 144 platform; 145 playingfield; 147 railroad; 148 river; 149 road; 151 roof; 154 sand;
155 sea; 156 shelf; 159 snow; 161 stairs; 166 tent; 168 towel; 171 wall-brick; 175 wall-stone;
176 wall-tile; 177 wall-wood; 178 water-other; 180 window-blind; 181 window-other; 184 tree-merged;
185 fence-merged; 186 ceiling-merged; 187 sky-other-merged; 188 cabinet-merged; 189 table-merged;
190 floor-other-merged; 191 pavement-merged; 192 mountain-merged; 193 grass-merged; 194 dirt-merged;
195 paper-merged; 196 food-other-merged; 197 building-other-merged; 198 rock-merged;
199 wall-other-merged; 200 rug-merged;
"""
_COCO_COLORS = """
dc143c 770b20 00008e 0000e6 6a00e4 003c64 005064 000046 0000c0 faaa1e 64aa1e dcdc00 af74af fa001e
a52a2a ff4dff 00e2fc b6b6ff 005200 78a69d 6e4c00 ae39ff c76400 480076 ffb3f0 007d5c d10097 bcd0b6
00dcb0 ff63a4 5c0049 8581ff 4eb4ff 00e400 aefff3 2d59ff 868667 9194ae ffd0ba c5e2ff ab8601 6d3f36
cf8aff 97005f 09503d 546933 4a4169 a6c466 d0c3d2 ff6d41 008f95 b300c2 d1636a 057900 e3ffcd 93bad0
994501 035fa1 a3ff00 7700aa 00b6c7 00a578 b78258 5f2000 827287 6e8185 a64a76 db8eb9 4fd272 b25a3e
41460f 7fa773 3b696a 8e6c2d c4ac00 5f3650 804cff c93901 f6007a bfa2d0 ffff80 93d3cb 966464 a8abac
9270c6 d2aa64 5c8859 da58b8 f18100 d911ff 7c4ab5 464646 ffe4ff 9ad000 c1005c 4c5b71 ffb4c3 6a9ab0
e6968c 3c8fff 804080 5c5237 fed47c 494dae ffa062 ffffff 68546d a9a483 e1c7ff 89364a 879edf 07f6e7
6bffc8 3a2995 b7798e ff4961 6b8e23 be9999 928b8d 4682b4 86c79c d1e28c 60246c 606060 40aa40 98fb98
d0e5e4 cebaab 98a140 747000 00728f 66669c fa8dff
"""
_COCO_IDS = [(i, x) for i, x in enumerate(_COCO_THINGS) if x not in ("__background__", "N/A")]
_COCO_IDS += [(int(i), x) for i, x in re.findall(r"(\d+) (\S+);", _COCO_STUFF)]
COCO_CATEGORIES = [
    {"color": list(bytes.fromhex(color)), "isthing": int(i <= 90), "id": i, "name": name}
    for (i, name), color in zip(_COCO_IDS, _COCO_COLORS.split(), strict=True)
]

# Spelled as in Detectron2, a space after "window" included, so that metadata compare equal.
_ADE20K_NAMES = """
wall; building; sky; floor; tree; ceiling; road, route; bed; window ; grass; cabinet; sidewalk,
pavement; person; earth, ground; door; table; mountain, mount; plant; curtain; chair; car; water;
painting, picture; sofa; shelf; house; sea; mirror; rug; field; armchair; seat; fence; desk; rock,
stone; wardrobe, closet, press; lamp; tub; rail; cushion; base, pedestal, stand; box; column,
pillar; signboard, sign; chest of drawers, chest, bureau, dresser; counter; sand; sink; skyscraper;
fireplace; refrigerator, icebox; grandstand, covered stand; path; stairs; runway; case, display
case, showcase, vitrine; pool table, billiard table, snooker table; pillow; screen door, screen;
stairway, staircase; river; bridge, span; bookcase; blind, screen; coffee table; toilet, can,
commode, crapper, pot, potty, stool, throne; flower; book; hill; bench; countertop; stove; palm,
palm tree; kitchen island; computer; swivel chair; boat; bar; arcade machine; hovel, hut, hutch,
shack, shanty; bus; towel; light; truck; tower; chandelier; awning, sunshade, sunblind; street lamp;
booth; tv; plane; dirt track; clothes; pole; land, ground, soil; bannister, banister, balustrade,
balusters, handrail; escalator, moving staircase, moving stairway; ottoman, pouf, pouffe, puff,
hassock; bottle; buffet, counter, sideboard; poster, posting, placard, notice, bill, card; stage;
van; ship; fountain; conveyer belt, conveyor belt, conveyer, conveyor, transporter; canopy; washer,
automatic washer, washing machine; plaything, toy; pool; stool; barrel, cask; basket, handbasket;
falls; tent; bag; minibike, motorbike; cradle; oven; ball; food, solid food; step, stair; tank,
storage tank; trade name; microwave; pot; animal; bicycle; lake; dishwasher; screen; blanket, cover;
sculpture; hood, exhaust hood; sconce; vase; traffic light; tray; trash can; fan; pier; crt screen;
plate; monitor; bulletin board; shower; radiator; glass, drinking glass; clock; flag
"""
ADE20K_SEM_SEG_CATEGORIES = " ".join(_ADE20K_NAMES.split()).split("; ")


def _get_coco_instances_meta() -> dict:
    """80 things: names, colours, and contiguous ids in the order of COCO's."""
    things = [x for x in COCO_CATEGORIES if x["isthing"]]
    return {
        "thing_dataset_id_to_contiguous_id": {x["id"]: i for i, x in enumerate(things)},
        "thing_classes": [x["name"] for x in things],
        "thing_colors": [x["color"] for x in things],
    }


def _get_coco_panoptic_separated_meta() -> dict:
    """80 things as above, and 54 semantic classes: 0 for all things, then 53 of stuff."""
    stuff = [x for x in COCO_CATEGORIES if not x["isthing"]]
    names = [x["name"].replace("-other", "").replace("-merged", "") for x in stuff]
    ids = {x["id"]: i for i, x in enumerate(stuff, start=1)}
    return _get_coco_instances_meta() | {
        "stuff_dataset_id_to_contiguous_id": ids | {0: 0},
        "stuff_classes": ["things", *names],
        "stuff_colors": [[82, 18, 128], *(x["color"] for x in stuff)],
    }


def _get_coco_panoptic_standard_meta() -> dict:
    """One numbering 0..132 of all categories, the same for things and stuff."""
    meta = {}
    for isthing, kind in enumerate(("stuff", "thing")):
        ids = {x["id"]: i for i, x in enumerate(COCO_CATEGORIES) if x["isthing"] == isthing}
        meta[f"{kind}_dataset_id_to_contiguous_id"] = ids
        meta[f"{kind}_classes"] = [x["name"] for x in COCO_CATEGORIES]
        meta[f"{kind}_colors"] = [x["color"] for x in COCO_CATEGORIES]
    return meta


def _get_builtin_metadata(dataset_name: str) -> dict:
    """Metadata of a family of builtin data sets, a new dict at every call.

    Raises:
        KeyError: no such family.
    """
    families = {
        "coco": _get_coco_instances_meta,
        "coco_panoptic_separated": _get_coco_panoptic_separated_meta,
        "coco_panoptic_standard": _get_coco_panoptic_standard_meta,
    }
    if dataset_name not in families:
        raise KeyError(f"No built-in metadata for dataset {dataset_name}")
    return families[dataset_name]()
