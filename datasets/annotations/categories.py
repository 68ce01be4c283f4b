"""Which class of a model stands for which category of an annotation file."""

from typing import NamedTuple

import numpy as np

from util.errors import UserError

from .store import AnnotatedImages

# A row of the class head costs little; millions of them, for ids that nothing has, do not.
MOST_UNUSED = 1000
SHOWN = 8  # ids in a message


class Classes(NamedTuple):
    """The classes of a model, under the names that checkpoints keep them by.

    Attributes:
        num_classes: labels are below it.
        category_ids: of annotation files, by label; None where they are the labels.
    """

    num_classes: int
    category_ids: list[int] | None = None


def classes_for(annotations: AnnotatedImages) -> Classes:
    """Choose the classes that a new model needs for the categories of a file.

    Labels are the category ids themselves, as in DETR, unless that would leave more than
    MOST_UNUSED classes without a category. They are then counted from 0, in the order of the ids.

    Raises:
        UserError: the file has no categories, or negative ids.
    """
    ids = sorted({category["id"] for category in annotations.categories})
    if not ids:
        raise UserError(f"{annotations.path}: lists no categories, there is nothing to learn")
    if ids[0] < 0:
        raise UserError(f"{annotations.path}: category id {ids[0]} is negative")
    if ids[-1] < len(ids) + MOST_UNUSED:
        return Classes(ids[-1] + 1)
    return Classes(len(ids), ids)


def number_labels(annotations: AnnotatedImages, category_ids: list[int]) -> None:
    """Have the labels of a file's objects be places in `category_ids`; changes `annotations`.

    Raises:
        UserError: an object is of none of these categories.
    """
    wanted = np.array(category_ids, dtype=np.int64)
    labels = np.searchsorted(wanted, annotations.labels)
    known = wanted[np.minimum(labels, len(wanted) - 1)] == annotations.labels
    strange = np.flatnonzero(~known & (annotations.labels >= 0))  # below: no number was given
    if len(strange):
        raise UserError(
            f"{annotations.path}: annotation {annotations.ids[strange[0]]} has category_id "
            f"{annotations.labels[strange[0]]}, for which the model has no class (it knows "
            f"{', '.join(map(str, category_ids[:SHOWN]))}{', ...' * (len(category_ids) > SHOWN)})"
        )
    annotations.labels = np.where(known, labels, -1).astype(np.int64)
    place = {category_id: label for label, category_id in enumerate(category_ids)}
    annotations.categories = [
        {**category, "id": place[category["id"]]}
        for category in annotations.categories
        if category["id"] in place
    ]
