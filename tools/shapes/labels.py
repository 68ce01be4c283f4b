"""Labels of drawn images as YOLO's and Pascal VOC's layouts have them, from COCO annotations.

Numbers have as many digits as it takes to compute those of the annotations from them exactly.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

DIGITS = 2  # of the annotations


def write_yolo(
    out: Path, split: str, images: list[dict], annotations: list[dict], classes: Sequence[str]
) -> None:
    """Write a text file for each image, and data.yaml with the splits that are there.

    Objects are polygons, which hold their boxes. Crowds are left out: YOLO has none.
    """
    folder = out / "labels" / split
    folder.mkdir(parents=True)
    by_image = _by_image(annotations)
    for image in images:
        sides = image["width"], image["height"]
        lines = []
        for annotation in by_image[image["id"]]:
            if not annotation["iscrowd"]:
                polygon = annotation["segmentation"][0]
                shares = [v / sides[i % 2] for i, v in enumerate(polygon)]
                lines.append(" ".join(map(repr, [annotation["category_id"] - 1, *shares])))
        path = folder / Path(image["file_name"]).with_suffix(".txt")
        path.write_text("".join(f"{line}\n" for line in lines))
    splits = [name for name in ("train", "val", "test") if (out / "images" / name).is_dir()]
    lines = [f"{name}: images/{name}" for name in splits]
    lines += ["names:", *(f"  {number}: {name}" for number, name in enumerate(classes))]
    (out / "data.yaml").write_text("".join(f"{line}\n" for line in lines))


def write_voc(
    out: Path, split: str, images: list[dict], annotations: list[dict], classes: Sequence[str]
) -> None:
    """Write an XML file for each image, and the list of a split.

    Corners are counted from 1, as VOC's, but have decimals. Crowds are difficult objects; there
    are no outlines.
    """
    folder = out / "Annotations"
    folder.mkdir(exist_ok=True)
    by_image = _by_image(annotations)
    for image in images:
        root = ElementTree.Element("annotation")
        _add(root, filename=image["file_name"])
        size = ElementTree.SubElement(root, "size")
        _add(size, width=image["width"], height=image["height"], depth=3)
        for annotation in by_image[image["id"]]:
            entry = ElementTree.SubElement(root, "object")
            _add(entry, name=classes[annotation["category_id"] - 1],
                 difficult=annotation["iscrowd"])  # fmt: skip
            x, y, w, h = annotation["bbox"]
            corners = {"xmin": x + 1, "ymin": y + 1, "xmax": x + w, "ymax": y + h}
            rounded = {name: round(value, DIGITS) for name, value in corners.items()}
            _add(ElementTree.SubElement(entry, "bndbox"), **rounded)
        ElementTree.indent(root)
        path = folder / Path(image["file_name"]).with_suffix(".xml")
        path.write_text(ElementTree.tostring(root, encoding="unicode") + "\n")
    names = [Path(image["file_name"]).stem for image in images]
    path = out / "ImageSets" / "Main" / f"{split}.txt"
    path.write_text("".join(f"{name}\n" for name in names))


def _by_image(annotations: list[dict]) -> dict[int, list[dict]]:
    grouped = defaultdict(list)
    for annotation in annotations:
        grouped[annotation["image_id"]].append(annotation)
    return grouped


def _add(element: ElementTree.Element, **values: object) -> None:
    for name, value in values.items():
        ElementTree.SubElement(element, name).text = str(value)


LabelWriter = Callable[[Path, str, list[dict], list[dict], Sequence[str]], None]
LABEL_WRITERS: dict[str, LabelWriter] = {"yolo": write_yolo, "voc": write_voc}
