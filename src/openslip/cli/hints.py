"""Commands and options of other tools that users may type: what to use here, or that it does not exist yet."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise

from openslip.errors import ConfigError, UsageError, did_you_mean
from openslip.toml import MOVED

COMMANDS = {
    "onnx onnxruntime immich rclip": (
        "`slip export MODEL --to onnx --out PLACE` writes graphs that programs without torch run"
    ),
    "torchscript freeze save-pretrained to-hf": (
        "`slip export MODEL --to FORMAT --out PLACE` writes a model for another library; `slip consolidate RUN` "
        "writes the weights to one safetensors file, and in Python `openslip.load(RUN).model` is a PyTorch module"
    ),
    "save weights merge unshard": (
        "`slip consolidate RUN --out FILE.safetensors` writes a model's weights to one file"
    ),
    "diff versus vs significance mcnemar bootstrap": (
        "`slip compare A B` compares models that have been measured, with intervals and verdicts"
    ),
    "interpolate average blend soup lerp wise-ft wiseft": (
        "`slip mix A B --alpha 0.5 --out FILE.safetensors` writes the weights between two models"
    ),
    "convert pack shard shards tar prepare preprocess make-shards": (
        "`slip data convert SOURCE FOLDER` writes pictures and captions as tar shards; `slip export MODEL "
        "--to FORMAT --out PLACE` writes a model for another library"
    ),
    "check verify lint inspect": (
        "`slip data check SOURCE` reads pictures and captions and says what is wrong with them"
    ),
    "show view preview visualize visualise": (
        "`slip data show SOURCE` draws pictures, captions and what the model sees; `slip recipes show NAME`"
        " prints a recipe"
    ),
    "metadata": "`slip data metadata TABLE OUT.parquet` makes the metadata of YFCC15M",
    "split train-test-split holdout": (
        "`slip train RECIPE --data.train SOURCE --data.val 10%` holds out a tenth to measure on, with "
        "copies on one side; a command that writes the two parts is not there yet"
    ),
    "dedup dedupe deduplicate clean filter": (
        "`slip data check SOURCE --list FILE` lists damaged records and copies, and `slip data convert SOURCE FOLDER "
        "--without FILE` leaves them out; `slip duplicates FOLDER` finds copies by embeddings"
    ),
    "predict label infer inference tag sort": (
        "`slip classify MODEL PICTURES --classes classes.txt` says which class each picture shows; `--sort-into "
        "FOLDER` copies pictures into folders of classes. `slip evaluate MODEL zeroshot:FOLDER` measures how often "
        "the answers are right"
    ),
    "query find lookup similar nearest retrieve": (
        "`slip search FOLDER QUERY` finds pictures by a text or a picture, once `slip embed MODEL SOURCE --out FOLDER` "
        "has embedded them"
    ),
    "index encode embeddings features extract vectors": (
        "`slip embed MODEL SOURCE --out FOLDER` embeds pictures, to search them; in Python "
        "`openslip.load(MODEL).encode_image(paths)`"
    ),
    "server app api web gradio ui": (
        "`slip serve VECTORS` shows a page to search embedded pictures, with a JSON API; `slip embed` makes them"
    ),
    "caption generate describe": (
        "These models compare pictures with texts, and write no texts. Pass captions of your own as "
        "`--data.train`"
    ),
    "finetune fine-tune ft": (
        "`slip evaluate MODEL finetune:FOLDER` trains a model further on labelled pictures and measures it. "
        "`slip train finetune --init MODEL --data.train SOURCE` trains a model further on captions, or on classes, "
        "with `--data.train labels:FOLDER`"
    ),
    "eval test validate validation val measure score metrics benchmark bench": (
        "`slip evaluate MODEL TASK …` measures a model, as in `slip evaluate runs/mine zeroshot:photos/ "
        "knn:photos/`"
    ),
    "zeroshot zero-shot linear linear-probe probe fewshot few-shot knn k-nn retrieval geometry pairs": (
        "These are tasks of `slip evaluate`, as in `slip evaluate runs/mine zeroshot:photos/ linear:photos/"
        " knn:photos/ retrieval:pairs.csv`"
    ),
    "resume continue restart": "`slip train --resume --out RUN` continues a run",
    "run start fit learn pretrain pre-train training": (
        "`slip train RECIPE --data.train SOURCE` trains; `slip recipes` lists the recipes"
    ),
    "launch distributed ddp torchrun": "Several GPUs: `torchrun --nproc-per-node 8 -m openslip train …`",
    "sweep sweeps tune hpo search-lr grid grid-search hparams hyperparameters experiment experiments": (
        "`slip ablate GRID.toml` trains variants of a recipe with several seeds, and compares them in one table; "
        "`slip ablate show` lists files to begin with"
    ),
    "init new create setup": (
        "`slip recipes show small-data > mine.toml` makes a file to change, and `slip train --config "
        "mine.toml` trains it. Without a file: `slip train small-data --data.train SOURCE`"
    ),
    "config configure configuration settings recipe presets preset": (
        "`slip recipes` lists the recipes, `slip recipes show NAME` prints one as TOML, and `slip train "
        "--config FILE` takes one"
    ),
    "cards card sets benchmarks": "`slip datasets` lists the public data sets that `slip evaluate` knows by name",
    "list ls models zoo": (
        "`slip recipes` lists the recipes, `slip datasets` the public data sets. Runs are folders, in `runs/` unless "
        "`--out` says otherwise"
    ),
    "download fetch get": (
        "`slip pull hf:owner/name` fetches a model. Data need not be downloaded first: sources may be addresses "
        "(`https://…`, `s3://…`) or sets of the hub (`hf:owner/name`)"
    ),
    "upload publish share": (
        "`slip push MODEL owner/name` uploads a model to the Hugging Face hub; `slip consolidate RUN` writes one file"
    ),
    "plot dashboard html page logs curves status monitor tensorboard wandb": (
        "`slip report RUN RUN …` turns runs into a page, also while they train. Trackers are options of "
        "`slip train`, such as `--tracking.tensorboard`"
    ),
    "selftest self-test diagnose env environment versions collect-env": (
        "`slip doctor` says what is installed and what is missing, and tests that everything works"
    ),
    "info summary describe-model stats": (
        "`slip report RUN` describes runs, `slip data check SOURCE` data, `slip recipes show NAME` a recipe"
    ),
    "demo example examples tutorial try quick": (
        "`slip quickstart` trains three small models in a few minutes and compares them"
    ),
    "render synthetic": "`slip scenes FOLDER` writes the embedded pictures as shards",
    "clip simclr": "That is an objective: `slip train RECIPE --objective.loss 'clip + 1.0 * simclr'`",
    "install update upgrade uninstall": "`pip` does that: `pip install --upgrade openslip`",
}
"""Words that are no commands → what there is instead. A word with several meanings has its most likely one."""
DATA = {
    "validate verify inspect stats statistics info count summary lint test": "`slip data check SOURCE`",
    "view preview sample samples browse visualize visualise augment display": "`slip data show SOURCE`",
    "pack shard shards tar wds webdataset export write resize shrink prepare copy": (
        "`slip data convert SOURCE FOLDER`"
    ),
    "split holdout": (
        "`slip train RECIPE --data.train SOURCE --data.val 10%` holds out a tenth; a command that writes "
        "the two parts is not there yet"
    ),
    "dedup dedupe deduplicate clean filter": (
        "`slip data check SOURCE --list FILE`, then `slip data convert SOURCE FOLDER --without FILE`"
    ),
    "compare leak leakage overlap": "`slip data check SOURCE --against OTHER`",
    "download fetch pull": (
        "Nothing has to be downloaded first: sources may be addresses or sets of the hub (`hf:owner/name`)."
        " `slip data convert hf:owner/name FOLDER` writes a copy"
    ),
    "list ls": "Sources are files and folders of yours; `slip data check SOURCE` says what is in one",
    "scenes generate render": "`slip scenes FOLDER`",
    "yfcc yfcc15m": "`slip data metadata TABLE OUT.parquet`",
}
"""The same after `slip data`."""
OPTIONS = {
    "epochs num-epochs n-epochs max-epochs num-train-epochs": "training.epochs",
    "lr learning-rate base-lr": "optimizer.lr",
    "batch-size batch bs b per-device-train-batch-size": "training.batch batch",
    "accum-freq accumulate accumulation gradient-accumulation-steps grad-accum micro-batch-size": (
        "training.micro-batch"
    ),
    "workers num-workers j n-workers dataloader-num-workers": "data.workers processes",
    "jobs nproc num-proc n-jobs": "processes",
    "output o output-dir out-dir save-dir save-path logs log-dir run dir output-path report": "out",
    "base baseline before compare compare-to": "against",
    "gpu gpus cuda cpu accelerator use-gpu": "training.device device",
    "fp16 bf16 fp32 amp half mixed-precision float16 bfloat16": "training.precision",
    "wd decay": "optimizer.weight-decay",
    "warmup warmup-steps warmup-epochs": "optimizer.warmup-epochs",
    "grad-clip grad-clip-norm max-grad-norm clip-grad-norm": "optimizer.clip-grad",
    "data dataset data-dir data-path train-data train train-csv train-dir dataset-path": "data.train",
    "val val-data validation val-split valid val-dir": "data.val",
    "unlabeled unlabelled ssl-data": "data.ssl",
    "csv-img-key img-key image-key image-col": "data.image-column",
    "csv-caption-key caption-key caption-col text-column text-col": "data.caption-column",
    "images images-dir image-dir image-folder root": "data.image-root",
    "image-size img-size imgsz resolution size force-image-size": "views.size",
    "model arch backbone encoder model-name": "model.image.name",
    "weights checkpoint pretrained finetune-from from-pretrained model.image.pretrained": "init",
    "lock-image lock-image-unlocked-groups freeze-image freeze-vision freeze-backbone": "model.image.freeze",
    "lock-text lock-text-unlocked-layers freeze-text": "model.text.freeze",
    "lora-rank lora-r rank": "model.image.lora model.text.lora",
    "distill-model distill distill-pretrained teacher-model": "objective.distil.teacher",
    "method objective criterion": "objective.loss",
    "time max-time hours steps max-steps train-num-samples num-steps iterations iters": "training.budget",
    "save-frequency save-every save-steps save-freq": "checkpoint.every-steps",
    "log-interval print-freq logging-steps log-every-n-steps": "training.log-every",
    "eval-every eval-steps val-frequency val-freq zeroshot-frequency eval-freq": "evaluation.every-epochs",
    "eval imagenet-val eval-tasks": "evaluation.tasks",
    "grad-checkpointing gradient-checkpointing checkpointing": "training.checkpoint-activations",
    "torchcompile torch-compile": "training.compile",
    "strategy fsdp ddp": "training.parallel",
    "limit-records n num max-samples": "limit count",
    "prompts template prompt custom-template-file zeroshot-templates": "templates",
    "labels categories names custom-classname-file class-names": "classes classnames",
    "dataset-root data-root roots": "sets",
    "topk top-k": "top",
    "min-confidence confidence conf min-score score-threshold": "threshold",
    "copy-to move-to sort-to": "sort-into",
    "task": "evaluation.tasks",
    "continue restart resume-from resume-from-checkpoint auto-resume": "resume",
}
"""Names of options in other tools → the names here, which not every command has."""
MISSING = {
    "patience early-stopping early-stop": (
        "There is no early stopping: the learning rate falls until the end of the schedule. The best "
        "checkpoint, by `--evaluation.best`, is kept as well"
    ),
    "verbose v debug quiet q silent": (
        "The amount of output is fixed; progress goes to standard error, and `2> log` keeps it"
    ),
    "nnodes nproc-per-node world-size local-rank dist-url": (
        "torchrun starts several processes: `torchrun --nproc-per-node 8 -m openslip train …`"
    ),
    "optimizer opt": "The optimiser is AdamW; its values are options such as --optimizer.lr",
    "scheduler lr-scheduler sched": (
        "The learning rate warms up and falls by a cosine; see --optimizer.warmup-epochs and "
        "--optimizer.lr-end"
    ),
    "force overwrite f exist-ok": "Nothing is overwritten: name another folder, or remove this one first",
    "yes y": "Nothing asks for confirmation",
}
"""Options of other tools that have no counterpart → what there is instead."""


def unknown_command(
    word: str, known: Iterable[str], words: Mapping[str, str], prog: str = "slip"
) -> UsageError:
    """Return the error for a `word` after `prog` that is none of the commands `known`."""
    what = f"`{prog}` has no command {word!r}" if prog != "slip" else f"There is no command {word!r}"
    return UsageError(what, fix=_about(word, sorted(known), words, prog))


def _about(word: str, known: list[str], words: Mapping[str, str], prog: str) -> str:
    answers = {name: answer for names, answer in words.items() for name in names.split()}
    plain = word.strip().lower().replace("_", "-")
    if plain in known:
        return f"It is written {plain!r}"
    if plain in answers:
        return answers[plain]
    if word.startswith("-"):
        return f"A command comes first: `{prog} COMMAND {word} …`. Commands: {', '.join(known)}"
    if os.path.exists(word):
        return f"That is a file or folder, and a command comes first. Commands: {', '.join(known)}"
    begun = [name for name in known if len(plain) > 2 and name.startswith(plain)]
    if near := begun or difflib.get_close_matches(plain, known, n=2, cutoff=0.7):
        return f"Did you mean {' or '.join(map(repr, near))}?"
    if near := difflib.get_close_matches(plain, answers, n=1, cutoff=0.8):
        return answers[near[0]]
    return f"Commands: {', '.join(known)}. `{prog} --help` describes them"


FEW = 8
"""How many options of one name, in different sections, an error lists at most."""


def unknown_option(word: str, known: Collection[str]) -> UsageError | None:
    """Return the error for an option `word` (`--epochs`) that is not among `known` (`training.epochs`); None if similar
    names are the best advice."""
    name = word.lstrip("-").partition("=")[0].replace("_", "-").lower()
    if moved := MOVED.get(name.replace("-", "_")):
        fix = f"It is {' and '.join(f'--{new}' for new in moved)} now".replace("_", "-")
        return UsageError(f"There is no option {word.partition('=')[0]}", fix=fix)
    answers = {other: ours for names, ours in OPTIONS.items() for other in names.split()}
    ours = answers.get(name, name).split()
    # An option of that name, or with that last part: in a section, or in commands other than `slip train` without one.
    found = [option for option in known if option in ours or option.rpartition(".")[2] in ours]
    found = found or [option for option in known if option == name.rpartition(".")[2]]
    if len(found) == 1:
        return UsageError(
            f"There is no option {word.partition('=')[0]}",
            fix=f"Here it is called --{found[0]}{_takes(name)}",
        )
    if 1 < len(found) <= FEW:
        several = ", ".join(f"--{option}" for option in sorted(found))
        return UsageError(f"There is no option {word.partition('=')[0]}", fix=f"Here it is one of {several}")
    missing = {other: answer for names, answer in MISSING.items() for other in names.split()}
    if name in missing:
        return UsageError(f"There is no option {word.partition('=')[0]}", fix=missing[name])
    return None


def _takes(name: str) -> str:
    """Return a remark for an option that takes another kind of value here than elsewhere."""
    values = {
        "fp16 half float16 amp mixed-precision": ", and takes a value: fp16, bf16 or auto",
        "bf16 bfloat16": ", and takes a value: bf16",
        "fp32": ", and takes a value: fp32",
        "gpu gpus cuda use-gpu accelerator": ", and takes cuda, or auto, which uses a GPU if there is one. "
        "`CUDA_VISIBLE_DEVICES=1` picks one of several",
        "cpu": ", and takes a value: cpu",
        "time max-time hours": ", and takes a time: 2h",
        "steps max-steps num-steps iterations iters train-num-samples": ", and takes samples, steps times the batch: "
        "'500k samples'",
        "warmup-steps": ", and counts epochs",
        "eval-steps": ", and counts epochs",
        "grad-checkpointing gradient-checkpointing checkpointing": ", and takes selective or full",
        "lock-image freeze-image freeze-vision freeze-backbone lock-text freeze-text": ", and takes a value: all",
        "lock-image-unlocked-groups lock-text-unlocked-layers": ", and takes -2 for all but the last 2 blocks",
        "fsdp": ", and takes a value: fsdp",
        "ddp": ", and takes a value: ddp",
        "resume-from resume-from-checkpoint": ", and takes no value: --out names the run",
    }
    return next((words for names, words in values.items() if name in names.split()), "")


def check_train(recipe: str | None, recipes: Collection[str], rest: Sequence[str]) -> None:
    """Raise ConfigError for misplaced words after `slip train`: an unknown `recipe`, and in `rest` a second word or a
    run after `--resume`."""
    if recipe and recipe not in recipes:
        raise _no_recipe(recipe, recipes)
    if rest and not rest[0].startswith("-"):
        fix = f"Pass pictures to train on as `--data.train {rest[0]}`"
        raise UsageError(
            "Only one word comes before the options, the recipe", got=" ".join(rest[:2]), fix=fix
        )
    for word, following in pairwise([*rest, "--"]):
        value = word.removeprefix("--resume=") if word.startswith("--resume=") else following
        if word.partition("=")[0] == "--resume" and not value.startswith("-"):
            named = "RUN" if value.lower() in ("true", "yes", "1", "") else value
            fix = f"Name the run with --out: `--resume --out {named}`"
            raise UsageError("--resume takes no value", got=value, fix=fix)


def _no_recipe(word: str, recipes: Collection[str]) -> ConfigError:
    what = f"There is no recipe {word!r}"
    if word.lower().endswith(".toml"):
        return ConfigError(what, fix=f"Pass a configuration file as `slip train --config {word}`")
    if os.path.isfile(os.path.join(word, "config.toml")):
        return ConfigError(
            f"{word} is a run, not a recipe",
            fix=f"`slip train --resume --out {word}` continues the run; "
            f"`slip train --config {os.path.join(word, 'config.toml')}` starts another run like it",
        )
    if os.path.exists(word) or any(sign in word for sign in ("/", "*", ":")):
        fix = (
            f"A recipe comes first, and pictures as an option: `slip train small-data --data.train {word!r}`"
        )
        return ConfigError(what, cause="That looks like pictures to train on", fix=fix)
    plain = word.lower().replace("_", "-")
    fix = f"It is written {plain!r}." if plain in recipes else did_you_mean(word, recipes)
    return ConfigError(what, fix=f"{fix} `slip recipes` lists them")


def check_evaluate(model: str, tasks: Sequence[str]) -> None:
    """Raise UsageError if a task is given in place of the `model`."""
    from openslip.evaluation.suite import PROTOCOLS

    if model.partition(":")[0] not in PROTOCOLS or os.path.exists(model):
        return
    models = [word for word in tasks if word.partition(":")[0] not in PROTOCOLS]
    rest = " ".join([model, *(word for word in tasks if word not in models)])
    raise UsageError(
        "The model comes first, then the tasks",
        got=" ".join([model, *tasks]),
        fix=f"`slip evaluate {models[0] if models else 'MODEL'} {rest}`",
    )
