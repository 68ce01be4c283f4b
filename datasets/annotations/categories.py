"""Which class of a model stands for which category of an annotation file."""

from typing import NamedTuple

import numpy as np

from util.errors import UserError

from .store import AnnotatedImages

# A class without a category costs a row of the class head: a thousand are cheap, millions are not.
MAX_UNUSED = 1000
MAX_SHOWN = 8  # ids in a message


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
    MAX_UNUSED classes without a category. Then they count from 0, in the order of the ids.

    Raises:
        UserError: the file has no categories, or negative ids.
    """
    ids = sorted({category["id"] for category in annotations.categories})
    if not ids:
        raise UserError(f"{annotations.path}: lists no categories, there is nothing to learn")
    if ids[0] < 0:
        raise UserError(f"{annotations.path}: category id {ids[0]} is negative")
    if ids[-1] < len(ids) + MAX_UNUSED:
        return Classes(ids[-1] + 1)
    return Classes(len(ids), ids)


def number_labels(annotations: AnnotatedImages, category_ids: list[int]) -> None:
    """Replace category ids by their indices in `category_ids`, in labels and categories, in place.

    Args:
        category_ids: ascending.

    Raises:
        UserError: an annotation has another category.
    """
    ids = np.array(category_ids, dtype=np.int64)
    labels = np.searchsorted(ids, annotations.labels)
    listed = ids[np.minimum(labels, len(ids) - 1)] == annotations.labels
    # Labels below 0 stand for values that are no number: issues of the file.
    unlisted = np.flatnonzero(~listed & (annotations.labels >= 0))
    if len(unlisted):
        raise UserError(
            f"{annotations.path}: annotation {annotations.ids[unlisted[0]]} has category_id "
            f"{annotations.labels[unlisted[0]]}, for which the model has no class (it knows "
            f"{', '.join(map(str, category_ids[:MAX_SHOWN]))}"
            f"{', ...' * (len(category_ids) > MAX_SHOWN)})"
        )
    annotations.labels = np.where(listed, labels, -1).astype(np.int64)
    label = {category_id: label for label, category_id in enumerate(category_ids)}
    annotations.categories = [
        {**category, "id": label[category["id"]]}
        for category in annotations.categories
        if category["id"] in label
    ]
