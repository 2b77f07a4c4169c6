"""Labelled images: scenes, Parquet as data hubs store it, and folders of one folder a class.

Images stay where they are until they are read: `Labelled.images[i]` reads image i, as encoded bytes or as an array.

- `opening`: which reader opens what; `labelled_set`: what every reader gives (`Part`), and the set that is made of
  the parts (`LabelledSet`); `splits`: names of splits
- folders: `folder` reads what `tree` lists and `layout` understands; `within` judges folders inside classes, and
  `annotated` reads lists of pictures beside them
- files: `data_files` finds them; `parquet`, `table` and `tar` read them; `label_column` picks the column; `labels`
  makes classes of its cells; `pictures` opens the files that a column names; `scenes`: the embedded scenes
- names of classes: `classes` (values and names), `class_names` (from the values), `names` (from a file beside them)
"""

from openslip.data.labelled.labelled_set import Image, Labelled, LabelledSet
from openslip.data.labelled.opening import dataset_name, load_labelled, open_labelled, open_named

__all__ = ["Image", "Labelled", "LabelledSet", "dataset_name", "load_labelled", "open_labelled", "open_named"]
