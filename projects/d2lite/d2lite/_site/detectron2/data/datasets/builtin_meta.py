"""Names, colours and ids of the categories of COCO and ADE20K."""

import re

from detectron2._scope import missing_attribute

__all__ = ["ADE20K_SEM_SEG_CATEGORIES", "COCO_CATEGORIES"]
__getattr__ = missing_attribute(__name__)

# The list that comes with the COCO panoptic annotations: id, name, RGB; things up to id 90.
_COCO_TABLE = """
1 person dc143c; 2 bicycle 770b20; 3 car 00008e; 4 motorcycle 0000e6; 5 airplane 6a00e4;
6 bus 003c64; 7 train 005064; 8 truck 000046; 9 boat 0000c0; 10 traffic light faaa1e;
11 fire hydrant 64aa1e; 13 stop sign dcdc00; 14 parking meter af74af; 15 bench fa001e;
16 bird a52a2a; 17 cat ff4dff; 18 dog 00e2fc; 19 horse b6b6ff; 20 sheep 005200; 21 cow 78a69d;
22 elephant 6e4c00; 23 bear ae39ff; 24 zebra c76400; 25 giraffe 480076; 27 backpack ffb3f0;
28 umbrella 007d5c; 31 handbag d10097; 32 tie bcd0b6; 33 suitcase 00dcb0; 34 frisbee ff63a4;
35 skis 5c0049; 36 snowboard 8581ff; 37 sports ball 4eb4ff; 38 kite 00e400;
39 baseball bat aefff3; 40 baseball glove 2d59ff; 41 skateboard 868667; 42 surfboard 9194ae;
43 tennis racket ffd0ba; 44 bottle c5e2ff; 46 wine glass ab8601; 47 cup 6d3f36; 48 fork cf8aff;
49 knife 97005f; 50 spoon 09503d; 51 bowl 546933; 52 banana 4a4169; 53 apple a6c466;
54 sandwich d0c3d2; 55 orange ff6d41; 56 broccoli 008f95; 57 carrot b300c2; 58 hot dog d1636a;
59 pizza 057900; 60 donut e3ffcd; 61 cake 93bad0; 62 chair 994501; 63 couch 035fa1;
64 potted plant a3ff00; 65 bed 7700aa; 67 dining table 00b6c7; 70 toilet 00a578; 72 tv b78258;
73 laptop 5f2000; 74 mouse 827287; 75 remote 6e8185; 76 keyboard a64a76; 77 cell phone db8eb9;
78 microwave 4fd272; 79 oven b25a3e; 80 toaster 41460f; 81 sink 7fa773; 82 refrigerator 3b696a;
84 book 8e6c2d; 85 clock c4ac00; 86 vase 5f3650; 87 scissors 804cff; 88 teddy bear c93901;
89 hair drier f6007a; 90 toothbrush bfa2d0; 92 banner ffff80; 93 blanket 93d3cb; 95 bridge 966464;
100 cardboard a8abac; 107 counter 9270c6; 109 curtain d2aa64; 112 door-stuff 5c8859;
118 floor-wood da58b8; 119 flower f18100; 122 fruit d911ff; 125 gravel 7c4ab5; 128 house 464646;
130 light ffe4ff; 133 mirror-stuff 9ad000; 138 net c1005c; 141 pillow 4c5b71; 144 platform ffb4c3;
145 playingfield 6a9ab0; 147 railroad e6968c; 148 river 3c8fff; 149 road 804080; 151 roof 5c5237;
154 sand fed47c; 155 sea 494dae; 156 shelf ffa062; 159 snow ffffff; 161 stairs 68546d;
166 tent a9a483; 168 towel e1c7ff; 171 wall-brick 89364a; 175 wall-stone 879edf;
176 wall-tile 07f6e7; 177 wall-wood 6bffc8; 178 water-other 3a2995; 180 window-blind b7798e;
181 window-other ff4961; 184 tree-merged 6b8e23; 185 fence-merged be9999;
186 ceiling-merged 928b8d; 187 sky-other-merged 4682b4; 188 cabinet-merged 86c79c;
189 table-merged d1e28c; 190 floor-other-merged 60246c; 191 pavement-merged 606060;
192 mountain-merged 40aa40; 193 grass-merged 98fb98; 194 dirt-merged d0e5e4;
195 paper-merged cebaab; 196 food-other-merged 98a140; 197 building-other-merged 747000;
198 rock-merged 00728f; 199 wall-other-merged 66669c; 200 rug-merged fa8dff
"""
COCO_CATEGORIES = [
    {"color": list(bytes.fromhex(color)), "isthing": int(int(i) <= 90), "id": int(i), "name": name}
    for i, name, color in re.findall(r"(\d+) (.+?) ([0-9a-f]{6})\b", _COCO_TABLE)
]

# Spelled as in Detectron2, a space after "window" included, so that metadata compare equal.
_ADE20K_NAMES = """
wall; building; sky; floor; tree; ceiling; road, route; bed; window ; grass; cabinet;
sidewalk, pavement; person; earth, ground; door; table; mountain, mount; plant; curtain; chair;
car; water; painting, picture; sofa; shelf; house; sea; mirror; rug; field; armchair; seat; fence;
desk; rock, stone; wardrobe, closet, press; lamp; tub; rail; cushion; base, pedestal, stand; box;
column, pillar; signboard, sign; chest of drawers, chest, bureau, dresser; counter; sand; sink;
skyscraper; fireplace; refrigerator, icebox; grandstand, covered stand; path; stairs; runway;
case, display case, showcase, vitrine; pool table, billiard table, snooker table; pillow;
screen door, screen; stairway, staircase; river; bridge, span; bookcase; blind, screen;
coffee table; toilet, can, commode, crapper, pot, potty, stool, throne; flower; book; hill; bench;
countertop; stove; palm, palm tree; kitchen island; computer; swivel chair; boat; bar;
arcade machine; hovel, hut, hutch, shack, shanty; bus; towel; light; truck; tower; chandelier;
awning, sunshade, sunblind; street lamp; booth; tv; plane; dirt track; clothes; pole;
land, ground, soil; bannister, banister, balustrade, balusters, handrail;
escalator, moving staircase, moving stairway; ottoman, pouf, pouffe, puff, hassock; bottle;
buffet, counter, sideboard; poster, posting, placard, notice, bill, card; stage; van; ship;
fountain; conveyer belt, conveyor belt, conveyer, conveyor, transporter; canopy;
washer, automatic washer, washing machine; plaything, toy; pool; stool; barrel, cask;
basket, handbasket; falls; tent; bag; minibike, motorbike; cradle; oven; ball; food, solid food;
step, stair; tank, storage tank; trade name; microwave; pot; animal; bicycle; lake; dishwasher;
screen; blanket, cover; sculpture; hood, exhaust hood; sconce; vase; traffic light; tray;
trash can; fan; pier; crt screen; plate; monitor; bulletin board; shower; radiator;
glass, drinking glass; clock; flag
"""
ADE20K_SEM_SEG_CATEGORIES = re.split(r";\s", _ADE20K_NAMES.strip("\n"))


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
    meta = {f"{kind}_dataset_id_to_contiguous_id": {} for kind in ("stuff", "thing")}
    for i, x in enumerate(COCO_CATEGORIES):
        kind = "thing" if x["isthing"] else "stuff"
        meta[f"{kind}_dataset_id_to_contiguous_id"][x["id"]] = i
    for kind in ("stuff", "thing"):
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
