"""ObjectNet (Barbu et al. 2019) is measured on the 113 of its 313 classes that are also in ImageNet."""

from __future__ import annotations

from pathlib import Path

from openslip.data.labelled import LabelledSet
from openslip.errors import DataError
from openslip.files import read_json

CLASSES = 113
"""The number of classes that ObjectNet and ImageNet share."""
FOLDERS, SHARED = "folder_to_objectnet_label.json", "objectnet_to_imagenet_1k.json"
"""Files of the archive: the name of each folder's class, and the classes of ImageNet that match a class."""


def shared_with_imagenet(labelled: LabelledSet, place: Path) -> LabelledSet:
    """Return the images of the classes that are also in ImageNet, with ObjectNet's names in lower case.

    place: the folder of the set, with the archive's mappings in it, in `mappings` or in `objectnet-1.0/mappings`. A set
    with CLASSES classes is returned as it is. Raises DataError without the mappings.
    """
    if len(labelled.class_names) == CLASSES:
        return labelled
    for folder in (place / "mappings", place / "objectnet-1.0/mappings", place.parent / "mappings", place):
        if (folder / SHARED).is_file():
            break
    else:
        raise DataError(
            f"{labelled.name} lacks the files that say which classes of ObjectNet are also in ImageNet",
            got=f"{len(labelled.class_names):,} classes",
            fix=f"Put {FOLDERS} and {SHARED} from the archive into {place / 'mappings'}",
        )
    try:
        names, shared = read_json(folder / FOLDERS), read_json(folder / SHARED)
        kept = {
            value: str(names[str(value)]).lower() for value in labelled.values if names[str(value)] in shared
        }
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            "The mappings of ObjectNet do not fit its folders", got=str(folder), cause=repr(error)
        ) from None
    return labelled.only(kept)
