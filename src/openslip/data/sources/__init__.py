"""One module for each format; all yield the same `Record`s. `open_source` tells the formats apart."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial

from openslip.config import SOURCES
from openslip.data.contents import Contents, LeftOut
from openslip.data.formats import EXTENSIONS
from openslip.data.record import Source
from openslip.data.sources import karpathy
from openslip.data.sources.layout import (
    ENTRIES,
    Layout,
    choose_split,
    lay_out,
    pictures_below,
    refuse_mixed,
    split_names,
)
from openslip.data.sources.mixture import LABELS, Mixture, split_mixture
from openslip.data.sources.options import open_fitting
from openslip.data.sources.redcaps import is_redcaps
from openslip.data.sources.yfcc import is_yfcc
from openslip.data.storage.paths import ending, find_paths
from openslip.data.storage.retry import is_url, shown
from openslip.errors import DataError

_SPREADSHEETS = (".xls", ".xlsm", ".xlsb", ".ods", ".fods", ".numbers")


def open_source(
    spec: str,
    *,
    image_root: str = "",
    image_column: str = "",
    caption_column: str = "",
    label_column: str = "",
    templates: str = "",
    class_names: str = "",
    captions_required: bool = True,
    must_fit: bool = True,
    leave_broken: bool = False,
    split: str = "train",
) -> Source:
    """Open the captioned images that `spec` names, in the format that `spec` looks like.

    - `shards/a-0000.tar`, `shards/a-*.tar`, `shards/a-{0000..0099}.tar`, `shards/{a,b}.tar`, or a folder that holds
      .tar files: WebDataset shards, also at `https://…`, `s3://…` and whatever else fsspec reads
    - `.parquet`, one or several files, in the same places: images, or paths of images, and captions
    - `.csv`, `.tsv`, `.txt`, `.jsonl`, `.xlsx`: a table of image paths and captions, in the columns named or guessed
    - `.json`: COCO captions or RedCaps annotations; RedCaps also as several files, or as their folder
    - `dataset_coco.json[:train|val|test|restval|all]`: a split of one of Karpathy's files
    - `.npy`: Conceptual Captions; `.pkl`, or `.parquet` with the same three columns: the metadata of YFCC15M
    - `hf:owner/name[/config][:split]`: a data set of the Hugging Face hub, or a folder that its library saved;
      `hf-stream:…`: the same without downloading all of it
    - any other folder: its images, with captions from the `.txt` or `.json` of the same name, or from `metadata.csv`;
      of a folder with shards for several splits: the shards for training
    - `photos/*.jpg`: these images
    - `labels:photos/`: labelled images, a folder with one folder per class or a table with a column of classes;
      captions are made from the classes' names (see `openslip.data.sources.class_captions`)
    - `scenes[:split[:count]]`: the built-in renderer
    - `A + 0.5 * B`: several of these, mixed (see `Mixture`)

    `image_root` is the folder that the paths in a table or annotation file are relative to; without it the folder is
    guessed. `captions_required=False` opens tables that have no captions. `label_column`, `templates` and
    `class_names` are for labelled images: the column of classes, the templates of captions, and a file with names.
    Where an option does not fit a source of a mixture, that source's column or folder is guessed. An option that fits
    no source is an error unless `must_fit` is False. `leave_broken` leaves out shards that cannot be read, as `note`
    and `beside` report; without it they are an error. `split`: for one of Karpathy's files whose spec names no split.
    Raises DataError when there is nothing at `spec`, or nothing that can be read.
    """

    options = {
        **{"image_root": image_root, "image_column": image_column, "caption_column": caption_column},
        **{"label_column": label_column, "templates": templates, "class_names": class_names},
    }
    open_one = partial(_open, captions_required=captions_required, leave_broken=leave_broken, split=split)
    terms = split_mixture(spec)
    if os.path.exists(spec) or [weight for weight, _ in terms] == [1]:
        return open_fitting([spec], open_one, options, must_fit=must_fit)[0]
    sources = open_fitting([name for _, name in terms], open_one, options, must_fit=must_fit)
    return Mixture(sources, [weight for weight, _ in terms], name=shown(spec))


def _open(
    spec: str, columns: Mapping[str, str], *, captions_required: bool, leave_broken: bool, split: str
) -> Source:
    # Specs that are no paths.
    if not spec.strip():
        raise DataError("No data is given", fix=f"Name a source: {SOURCES}")
    if spec == "scenes" or spec.startswith("scenes:"):
        from openslip.scenes import open_scenes

        return open_scenes(spec)
    if spec.startswith(LABELS):
        from openslip.data.sources.class_captions import open_classes

        return open_classes(spec, columns)
    columns = {name: columns[name] for name in ("image_root", "image_column", "caption_column")}
    if spec.startswith(("hf:", "hf-stream:")) and not spec.startswith("hf://"):
        from openslip.data.sources.huggingface import open_hub

        return open_hub(spec, **columns, captions_required=captions_required)

    named, own = karpathy.split_of(spec)
    paths = find_paths(named)
    if len(paths) == 1 and (own or (ending(paths[0]) == ".json" and karpathy.is_karpathy(paths[0]))):
        return karpathy.KarpathySplit(_only(paths, named), own or split, image_root=columns["image_root"])
    open_files = partial(
        _open_files, columns=columns, captions_required=captions_required, leave_broken=leave_broken
    )
    if len(paths) == 1 and ending(paths[0]) == "/":
        return _open_folder(paths[0], spec, open_files)
    if is_url(spec) and len(paths) > 1 and not re.search(r"[*?\[{]", spec):  # a folder elsewhere
        layout = choose_split(paths, shown(spec))
        return _told(open_files(layout.paths, spec), layout)
    splits = [f"{len(found):,} {split}" for split, found in split_names(paths).items() if split]
    several = [f"Files of several splits are taken, because {spec} names them: {', '.join(splits)}"]
    return _told(open_files(paths, spec), Layout("shards", paths, notes=several if len(splits) > 1 else []))


def _open_folder(folder: str, spec: str, open_files: partial[Source]) -> Source:
    """Open a folder on this machine."""
    layout = lay_out(folder)
    options = open_files.keywords
    if layout.kind == "saved":
        from openslip.data.sources.huggingface import open_hub

        source = open_hub(
            f"hf:{layout.paths[0]}", **options["columns"], captions_required=options["captions_required"]
        )
    elif layout.kind == "pictures":
        from openslip.data.sources.folder import ImageFolder

        source = ImageFolder(layout.paths[0], caption_column=options["columns"]["caption_column"], name=spec)
    else:
        source = open_files(layout.paths, spec)
        if layout.kind == "table":
            _tell_unnamed(os.path.dirname(layout.paths[0]), source, layout)  # of a split's folder only
        if ending(layout.paths[0]) == ".parquet" and source.name == spec and _embeds(source):
            pictures = pictures_below(folder, len(layout.paths) + 1)
            if len(pictures) > len(layout.paths):
                refuse_mixed(folder, layout.paths)
    return _told(source, layout)


def _embeds(source: Source) -> bool:
    """Whether pictures are in the rows of Parquet files, not beside them."""
    from openslip.data.sources.parquet import ParquetTable

    return isinstance(source, ParquetTable)


def _tell_unnamed(folder: str, source: Source, layout: Layout) -> None:
    """Count the pictures in a folder that the table does not name; looks at ENTRIES files at most."""
    from openslip.data.sources.image_files import ImageFiles

    if not isinstance(source, ImageFiles) or len(source) > ENTRIES:
        return
    named = set()
    for index in range(len(source)):
        with suppress(DataError):  # rows that name no image
            named.add(os.path.abspath(source.path(index)))
    unnamed = [
        picture for picture in pictures_below(os.path.abspath(folder), ENTRIES) if picture not in named
    ]
    layout.taken = len(named)
    if unnamed:
        example = os.path.relpath(unnamed[0], folder)
        layout.left_out["a picture that the table does not name"] = LeftOut(len(unnamed), example)


def _told(source: Source, layout: Layout) -> Source:
    """Return the source with the report of what is taken of a folder and what is left out."""
    own = source.contents
    if layout.kind == "pictures" and own:  # it counts files as well
        for reason, left in layout.left_out.items():
            own.see(left.count)
            own.leave_out(reason, left.example, left.count, lost=left.lost)
    elif layout.left_out:
        taken = layout.taken or len(layout.paths)
        beside = Contents("files", taken + sum(left.count for left in layout.left_out.values()))
        for reason, left in layout.left_out.items():
            beside.leave_out(reason, left.example, left.count, lost=left.lost)
        if before := source.beside:
            beside.seen -= taken  # which it has counted
            beside.add(before)
        source.beside = beside
    if layout.notes:
        source.note = "\n".join(note for note in (*layout.notes, source.note) if note)
    return source


def _open_files(
    paths: Sequence[str],
    spec: str,
    *,
    columns: Mapping[str, str],
    captions_required: bool,
    leave_broken: bool,
) -> Source:
    """Open files, or a folder of annotation files, as one source."""
    image_root = columns["image_root"]
    # Formats that may be several files, here or behind URLs.
    kinds = {ending(path) for path in paths}
    if kinds == {".tar"}:
        from openslip.data.sources.webdataset import TarShards

        return TarShards(
            paths,
            name=spec,
            image_column=columns["image_column"],
            caption_column=columns["caption_column"],
            leave_broken=leave_broken,
        )
    if kinds == {".parquet"} and not (len(paths) == 1 and is_yfcc(paths[0])):
        from openslip.data.sources.parquet import open_parquet

        return open_parquet(paths, name=spec, **columns, captions_required=captions_required)
    if kinds <= {".json", "/"} and all(map(is_redcaps, paths)):
        from openslip.data.sources.redcaps import RedCaps

        return RedCaps(paths if len(paths) > 1 else paths[0], image_root=image_root, name=spec)
    if {kind[1:] for kind in kinds} <= EXTENSIONS and not any(map(is_url, paths)):
        from openslip.data.sources.folder import ImageFolder

        folder = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
        return ImageFolder(folder, files=paths, caption_column=columns["caption_column"], name=spec)

    # Formats that are one file on this machine.
    path = _only(paths, spec)
    match ending(path):
        case ".csv" | ".tsv" | ".txt" | ".jsonl" | ".xlsx":
            from openslip.data.sources.table import Table

            return Table(path, **columns, captions_required=captions_required)
        case ".json":
            from openslip.data.sources.coco import CocoCaptions

            return CocoCaptions(path, image_root=image_root)
        case ".npy":
            from openslip.data.sources.conceptual import Conceptual

            return Conceptual(path, **columns)
        case ".pkl" | ".pickle" | ".parquet":
            from openslip.data.sources.yfcc import Yfcc

            return Yfcc(path, image_root=image_root)
    raise _unknown(path)


def _only(paths: Sequence[str], spec: str) -> str:
    """Return the one local path there is. Raises DataError when there are several, or it is a URL."""
    path = paths[0]
    if len(paths) > 1:
        raise DataError(
            "Several files can be one source only if all of them are .tar shards, or all of them .parquet files",
            got=f"{shown(spec)!r}, which names {len(paths)} files, from {shown(path)} to {shown(paths[-1])}",
            fix="Join different sources with a plus: 'a/*.tar + b.csv'",
        )
    if _is_compressed_tar(path) or ending(path) == "":
        raise _unknown(path)
    if is_url(path):
        raise DataError(
            "Only tar shards and Parquet files can be read from another machine",
            got=shown(path),
            fix="Copy the file to a disk of this machine first, with the images it names; or make shards of them",
        )
    return path


def _unknown(path: str) -> DataError:
    if _is_compressed_tar(path):
        return DataError(
            "The tar shard is compressed",
            got=shown(path),
            cause="Records are read from the middle of a shard, which works only without compression",
            fix="Unpack it to a plain .tar (gunzip, unzstd, unxz); JPEGs hardly shrink anyway",
        )
    suffix = ending(path)
    if suffix in _SPREADSHEETS:
        fix = "Save it as CSV, in UTF-8 (Excel: 'CSV UTF-8'), or as .xlsx"
        return DataError("Spreadsheets of this kind cannot be read", got=shown(path), fix=fix)
    return DataError(
        f"The ending {suffix!r} belongs to no known format" if suffix else "The file has no ending",
        got=shown(path),
        fix=f"A source is {SOURCES}",
    )


def _is_compressed_tar(path: str) -> bool:
    return re.search(r"\.(tgz|tar\.\w+)$", shown(path).lower()) is not None
