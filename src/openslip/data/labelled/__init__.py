"""Labelled images: scenes, Parquet as data hubs store it, and folders of one folder a class.

Images stay where they are until asked for: `Labelled.images[i]` reads the i-th one, as encoded bytes or as an array.

- `opening`: which reader opens what; `labelled`: what every reader gives (`Part`), and the set that is made of it
  (`LabelledSet`); `splits`: their names
- folders: `folder` reads what `tree` lists and `layout` understands, with `within` for what lies inside classes and
  `annotated` for lists of pictures beside them
- files: `data_files` finds them, `parquet`, `table` and `tar` read them, `label_column` picks the column, `labels`
  makes classes of its cells, `pictures` opens the files that a column names; `scenes`: the embedded ones
- what classes are called: `classes` (values and names), `class_names` (by the values), `names` (by a file beside)
"""

from openslip.data.labelled.labelled_set import Image, Labelled, LabelledSet
from openslip.data.labelled.opening import dataset_name, load_labelled, open_labelled, open_named

__all__ = ["Image", "Labelled", "LabelledSet", "dataset_name", "load_labelled", "open_labelled", "open_named"]
