"""Images with more objects than a detector has queries: it finds one object a query at most."""

from collections.abc import Iterator

import numpy as np

from datasets.annotations.store import AnnotatedImages

from .issues import Issue


def crowded_images(annotations: AnnotatedImages, num_queries: int) -> Iterator[Issue]:
    """Yield a note for each image that has more objects than there are queries."""
    counts = annotations.object_counts()
    for index in np.flatnonzero(counts > num_queries):
        image_id = int(annotations.image_ids[index])
        message = f"{image_id} ({counts[index]})"
        yield Issue(str(annotations.path), message, image_id, "crowded")


def too_few_queries(annotations: AnnotatedImages, num_queries: int) -> str | None:
    """Return what to say before training where images have more objects than there are queries."""
    counts = annotations.object_counts()
    crowded = int((counts > num_queries).sum())
    if not crowded:
        return None
    most = counts.max()
    return (
        f"{crowded} of {len(counts)} training images have more than --num_queries {num_queries} "
        f"objects, at most {most}: the rest cannot be found; --num_queries {most} is enough for all"
    )
