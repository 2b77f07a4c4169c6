"""The plan of a run as text, printed before it starts."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from openslip.data.data import Data
from openslip.data.loader import default_workers
from openslip.data.prefetch import choose_prefetch, sample_bytes
from openslip.data.sources.mixture import labelled_ones
from openslip.models.batchnorm import KeptStatistics
from openslip.models.lora import is_adapted, plain_name
from openslip.models.tuning import learning_modules
from openslip.needs import Need
from openslip.objectives.combine import Term
from openslip.training.budget import duration
from openslip.training.fixed import millions
from openslip.training.kept_features import NO_KEEPING, Keeping, check_epochs
from openslip.training.plan import Plan, state_bytes
from openslip.training.start import Start
from openslip.training.student import Student
from openslip.training.watching.speed import peak

TOO_FAST = 3e-4
"""The plan warns of a higher learning rate for fine-tuning; recipes for fine-tuning have 1e-5 to 1e-4."""
TOO_SLOW = 5e-5
"""The plan warns of a lower learning rate for adapters."""
_TITLES = {"train": "data", "ssl": "ssl data"}


def describe(
    plan: Plan,
    student: Student,
    run: Path,
    data: Data,
    started: Start | None = None,
    keeps: Keeping = NO_KEEPING,
    *,
    evaluated: bool = True,
    fresh: Collection[str] | None = None,
) -> str:
    """Return the plan as text: parameters, samples, global batch, steps, memory, where things go.

    started: what the weights start from, if not from random ones. keeps: what is computed once. evaluated: whether
    anything measures the model. fresh: the names, as in checkpoints, of the parameters that start with random
    weights; None: all of them.
    """
    config, training = plan.config, plan.config.training
    dtype = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[plan.dtype]
    if training.precision == "fp8":
        dtype = "fp8 and bf16"
    fastest, origin = peak(plan.device, plan.dtype)
    recomputed = {
        "none": "",
        "selective": ", activations partly recomputed",
        "full": ", activations recomputed",
    }
    how = (", compiled" if training.compile else "") + recomputed[training.checkpoint_activations]
    lines = {
        "recipe": f"{config.name}: minimise {config.objective.loss}",
        "model": _sizes(student),
        **({"start": "\n".join(started.lines(config))} if started else {}),
        **_learns_from(student),
        **{_TITLES[option]: text for option, text in data.described().items()},
        **_positives(plan, data),
        "validation": _validation(plan, data, evaluated),
        "views": _views(plan, student),
        **({"features": keeps.described(data, run)} if keeps else {}),
        "length": length(plan),
        "schedule": _schedule(plan, started),
        "machine": f"{_processes(plan)}{plan.device.type}, towers in {dtype}{how}, "
        f"{_several(torch.get_num_threads(), 'thread')}, peak {fastest / 1e12:.3g} TFLOP/s ({origin})",
        "memory": f"{state_bytes(plan, student) / 2**30:.2f} GiB of weights, gradients and optimiser; "
        "the most that a step takes is printed after the second one"
        + _ready(plan, student, keeps, data.longest_block),
        **_kept_by_record(student),
        "written to": str(run),
    }
    useless = "" if plan.seconds else check_epochs(keeps, plan.steps / plan.steps_per_epoch)
    warnings = filter(
        None,
        [
            plan.part_of_an_epoch,
            _frozen_at_random(student, fresh),
            _kept_at_random(student, fresh),
            _heads_alone(student),
            _fast(plan, student, started),
            _slow_adapters(plan, student),
            useless,
        ],
    )
    if lost := [*data.losses(), *warnings]:
        lines["WARNING"] = "\n".join(lost)
    return "\n".join(
        f"  {name:<11}{text.replace(chr(10), chr(10) + 13 * ' ')}" for name, text in lines.items()
    )


def _sizes(student: Student) -> str:
    """Return the numbers of trained and frozen parameters, by part of the model or objective, and of teachers."""
    children = [*student.model.named_children(), *student.objective.named_children()]
    trained = {name: _count(p for p in child.parameters() if p.requires_grad) for name, child in children}
    total = _count(p for p in student.parameters() if p.requires_grad)
    shares = ", ".join(f"{name} {millions(count)}" for name, count in trained.items() if count)
    still = {
        name: _count(p for p in child.parameters() if not p.requires_grad)
        for name, child in student.model.named_children()
    }
    teachers = _count(p for p in student.objective.parameters() if not p.requires_grad)
    beside = f"; {millions(teachers)} of teachers" if teachers else ""
    for name, tower in student.model.named_children():
        adapters = [part for n, part in tower.named_modules() if n.endswith("lora_A.default")]
        if ranks := {part.out_features for part in adapters if isinstance(part, nn.Linear)}:
            beside = f"; adapters of rank {max(ranks)} on {name}{beside}"
    if kept := _kept_statistics(student):
        beside = f"; {kept} BatchNorm layers keep their statistics{beside}"
    if any(still.values()):
        frozen = ", ".join(f"{name} {millions(count)}" for name, count in still.items() if count)
        return f"{millions(total)} parameters are trained ({shares}); frozen: {frozen}{beside}"
    return f"{millions(total)} parameters ({shares}){beside}"


def _kept_statistics(student: Student) -> int:
    """Return how many BatchNorm layers of the image tower keep statistics beside weights that learn."""
    return sum(isinstance(part, KeptStatistics) for part in learning_modules(student.model.image_tower))


def _frozen_at_random(student: Student, fresh: Collection[str] | None) -> str:
    """Return a warning if frozen weights start at random, and so never learn anything; else ""."""
    still = [
        name
        for name, p in student.model.named_parameters()
        if not p.requires_grad and (fresh is None or plain_name(name) in fresh)
    ]
    if not still:
        return ""
    towers = " and ".join(dict.fromkeys(name.partition(".")[0] for name in still))
    return (
        f"{len(still)} frozen tensors of {towers} have random weights, and keep them: start from a trained model with "
        "--init, or freeze less"
    )


def _kept_at_random(student: Student, fresh: Collection[str] | None) -> str:
    """Return a warning if BatchNorm keeps statistics beside random weights; else ""."""
    learned = fresh is not None and not any(name.startswith("image_tower.") for name in fresh)
    if learned or not _kept_statistics(student):
        return ""
    return (
        "the image tower's BatchNorm keeps statistics that no pictures have made: start from a trained model with "
        "--init, or leave --model.image.batchnorm out"
    )


def _heads_alone(student: Student) -> str:
    """Return a warning if terms take nothing from the model but frozen towers, and so change none of it; else ""."""
    idle = [
        term.kind.name
        for term in student.objective.written.terms
        if not any(p.requires_grad for p in student.model.only(_own_needs(term)).parameters())
    ]
    if not idle:
        return ""
    return (
        f"the inputs of {' and '.join(idle)} come from frozen towers alone, and change nothing in the model. "
        f"Leave {' and '.join(idle)} out of --objective.loss, or freeze less"
    )


def _own_needs(term: Term) -> list[Need]:
    """Return what a term needs of the model that learns."""
    return [need for need in term.kind.needs_for(term.config) if need.by == "student"]


def _fast(plan: Plan, student: Student, started: Start | None) -> str:
    """Return a warning if a whole trained tower continues at a rate for random weights; else ""."""
    if started is None:
        return ""
    config, towers = plan.config.optimizer, []
    for name, tower, rate in (
        ("image", student.model.image_tower, config.image),
        ("text", student.model.text_tower, config.text),
    ):
        lr = rate.lr if rate.lr >= 0 else config.lr
        whole = tower is not None and all(p.requires_grad for p in tower.parameters())
        if whole and lr > TOO_FAST and any(n.startswith(f"{name}_tower.") for n in started.taken):
            towers.append(f"the {name} tower learns at {lr:g}")
    if not towers:
        return ""
    return (
        f"{' and '.join(towers)}, which may undo what the weights have learned: the recipe finetune has rates for "
        "fine-tuning, and --optimizer.image.lr and --optimizer.text.lr set a rate for each tower"
    )


def _slow_adapters(plan: Plan, student: Student) -> str:
    """Return a warning if adapters learn at a rate for fine-tuning whole towers; else ""."""
    config, slow = plan.config.optimizer, []
    for name, tower, rate in (
        ("image", student.model.image_tower, config.image),
        ("text", student.model.text_tower, config.text),
    ):
        lr = rate.lr if rate.lr >= 0 else config.lr
        if tower is not None and lr < TOO_SLOW and is_adapted(tower):
            slow.append((name, lr))
    if not slow:
        return ""
    return (
        f"adapters begin at 0 and learn at {' and '.join(f'{lr:g} ({name} tower)' for name, lr in slow)}, at which "
        "they change little. Usual rates for adapters are 1e-4 to 5e-4 (Hu et al. 2022): "
        + " ".join(f"--optimizer.{name}.lr 3e-4" for name, _ in slow)
    )


def _learns_from(student: Student) -> dict[str, str]:
    """Return the fixed models that terms learn from, if there are any."""
    of = student.fixed.of
    several = {spec: [name for name in of if of[name] == spec] for spec in student.fixed.models}
    lines = [
        f"{', '.join(names)} from {student.fixed.models[spec].described()}" for spec, names in several.items()
    ]
    return {"learns": "\n".join(lines)} if lines else {}


def _kept_by_record(student: Student) -> dict[str, str]:
    """Return what objectives keep of every record, if they do, and the memory that it takes."""
    lines = []
    for objective in student.objective.objectives:
        kept = [getattr(objective, name) for name in objective.by_record]
        kept = [buffer for buffer in kept if buffer is not None]
        if kept:
            size, rows = sum(buffer.numel() * buffer.element_size() for buffer in kept), len(kept[0])
            lines.append(
                f"{objective.name} keeps {size // rows} bytes of each of {rows:,} records: {size / 2**20:,.2f} MiB on "
                "each process, and in each checkpoint"
            )
    return {"records": "\n".join(lines)} if lines else {}


def _count(parameters: Iterable[Tensor]) -> int:
    return sum(p.numel() for p in parameters)


def _processes(plan: Plan) -> str:
    """Return the number of processes and the share of each, if there are several; else ""."""
    if plan.processes == 1:
        return ""
    kind = {"ddp": "DDP", "fsdp": "FSDP"}[plan.config.training.parallel]
    return f"{plan.processes} processes ({kind}, {plan.config.training.batch // plan.processes} of a batch each), "


def _views(plan: Plan, student: Student) -> str:
    """Return the views with their size, the share of dropped tokens, and how often they are drawn."""
    lines: dict[str, list[str]] = {}
    for drawn in student.views:
        view, often = plan.config.views.of(drawn.kind, drawn.size), plan.schedule
        text = f"at {view.size} px"
        dropped = view.drop_tokens and drawn not in student.fixed.views
        text += f", {view.drop_tokens:.0%} of the tokens dropped" if dropped else ""
        if drawn.scheduled:
            text += f", of {often.rows:,} of {often.batch:,} samples" if often.rows < often.batch else ""
            text += f", on one step of {often.every}" if often.every > 1 else ""
            text += f", after {often.start:,} steps" if often.start else ""
        lines.setdefault(text, []).append(drawn.name)
    said = [f"{', '.join(names)} {text}" for text, names in lines.items()]
    return "\n".join([*said, *_passes(plan, student)])


def _passes(plan: Plan, student: Student) -> list[str]:
    """Return how much of a sample passes the image towers, if the list of views does not show it.

    The unit is a view of the model's size with all its tokens; the number is a mean over the steps of the schedule.
    """
    whole, often = plan.config.views.size, plan.schedule
    shares = {}
    for drawn in student.objective.written.views:
        view = plan.config.views.of(drawn.kind, drawn.size)
        share = (view.size / whole) ** 2 * (1 - view.drop_tokens)
        part = often.rows / often.batch * plan.config.objective.ssl_steps
        shares[drawn.name] = share * (part if drawn.scheduled else 1)
    terms = [term.kind.needs_for(term.config) for term in student.objective.written.terms]
    own = {(n.view, n.masked) for needs in terms for n in needs if n.by == "student" and n.view in shares}
    of_teachers = [{n.view for n in needs if n.by == "teacher" and n.view in shares} for needs in terms]
    mine = sum(shares[name] for name, _ in own)
    theirs = sum(shares[name] for names in of_teachers for name in names)
    if not theirs and len(own) == len(shares) and set(shares.values()) == {1.0}:
        return []
    beside = f", {theirs:.3g} through teachers" * bool(theirs)
    return [f"a sample is {mine:.3g} whole views of {whole} px through the tower{beside}"]


def length(plan: Plan) -> str:
    """Return how long the run is, as text."""
    training = plan.config.training
    if plan.seconds:
        return (
            f"{duration(plan.seconds)} of training, evaluation not counted: the first steps are timed, then the run "
            f"begins again with as many steps of {training.batch} as there is time for"
        )
    share = training.batch // plan.processes
    at_a_time = training.micro_batch or share
    micro = f", {at_a_time} at a time through the towers" if at_a_time < share else ""
    samples = (
        f"{plan.steps * training.batch:,} samples = {_several(plan.steps, 'step')} of {training.batch}{micro}"
    )
    if training.budget:
        return f"{_several(plan.steps / plan.steps_per_epoch, 'epoch', '.3g')} = {samples}"
    return f"{_several(training.epochs, 'epoch', 'g')} = {samples}"


def _schedule(plan: Plan, started: Start | None) -> str:
    """Return the learning rate and its schedule, each tower's own rates, and for how long only fresh weights learn."""
    config = plan.config.optimizer
    lines = [f"learning rate {config.lr:g} after {_warmup(plan)}, cosine to {config.lr_end:g}"]
    for name, rate in (("image", config.image), ("text", config.text)):
        own = [f"learning rate {rate.lr:g}"] * (rate.lr >= 0)
        own += [f"in each layer {rate.layer_decay:g} of the rate above it"] * (rate.layer_decay != 1)
        tower = getattr(plan.config.model, name)
        frozen = tower.freeze == "all" and not tower.lora
        lines += [f"{name} tower: {', '.join(own)}"] * (bool(own) and not frozen)
    if config.fresh_lr >= 0 and (started is None or started.fresh):
        lines.append(f"fresh weights: learning rate {config.fresh_lr:g}")
    if config.fresh_epochs:
        alone = f"{plan.fresh_share:.1%} of them" if plan.seconds else f"{plan.fresh:,} steps"
        lines.append(f"in the first {alone} only fresh weights learn; the other weights warm up afterwards")
    return "\n".join(lines)


def _warmup(plan: Plan) -> str:
    return f"a warm-up of {plan.warmup_share:.1%}" if plan.seconds else f"{plan.warmup:,} warm-up steps"


def _positives(plan: Plan, data: Data) -> dict[str, str]:
    """Return lines that say which pairs belong together, if that depends on classes."""
    terms = [(term.kind.name, getattr(term.config, "positives", "")) for term in plan.loss.terms]
    count = f"{len(data.train.class_names):,} classes"
    lines = [
        f"{name}: all pairs of a batch that have the same class, of {count}"
        if positives == "labels"
        else f"{name}: each pair alone, although captions of the same class, of {count}, are alike; "
        f"--objective.{name}.positives labels takes all pairs of a class"
        for name, positives in terms
        if positives == "labels" or (positives and data.train.captions_name_classes)
    ]
    return {"positives": "\n".join(lines)} if lines else {}


def _validation(plan: Plan, data: Data, evaluated: bool) -> str:
    """Return what is measured, or that nothing is, and how to change that."""
    config, held_out = plan.config, data.held_out
    tasks = list(config.evaluation.tasks)
    if held_out is not None:
        how = ["zero-shot classification of them"] if data.train.captions_name_classes else []
        return "\n".join([held_out.summary(), *how, *tasks])
    if config.data.val and plan.loss.shared_space:
        how = "zero-shot classification" if labelled_ones(config.data.val) else "retrieval"
        tasks.insert(0, f"{how} on {config.data.val}")
    if tasks and evaluated:
        return "\n".join(tasks)
    if tasks:
        return (
            f"nothing will be measured: the program that trains gives no `evaluate`, and leaves {', '.join(tasks)} "
            "to `slip evaluate`"
        )
    if evaluated and not config.data.val:
        return "by the program that trains"
    return "nothing will be measured: there is neither --data.val nor --evaluation.tasks. " + (
        "`--data.val 10%` holds out a tenth of the training data"
        if plan.loss.shared_space
        else "`--evaluation.tasks knn:FOLDER` measures on pictures sorted into a folder for each class"
    )


def _ready(plan: Plan, student: Student, keeps: Keeping, block: int) -> str:
    """Return what the loader processes keep ready, and the memory that it takes; "" without loader processes."""
    data, share = plan.config.data, plan.config.training.batch // plan.processes
    workers = default_workers() if data.workers < 0 else data.workers
    drawn = tuple(view for view in student.views if view.name not in keeps.kept.undrawn)
    workers = workers if drawn or data.workers >= 0 else 0
    size = sample_bytes(drawn, plan.config.views, plan.schedule.rows / plan.schedule.batch)
    ready = choose_prefetch(share, size, workers, data.prefetch, block)
    if not ready.workers:
        return ""
    scarce = "; more would help, but would take too much of the free memory" if ready.scarce else ""
    processes = "1 loader process keeps" if workers == 1 else f"{workers} loader processes keep"
    return (
        f"\nand {ready.bytes / 2**30:.2f} GiB of shared memory for what {processes} ready: "
        f"{ready.samples:,} samples, {ready.samples / share:.3g} batches{scarce}"
    )


def _several(number: float, what: str, form: str = ",") -> str:
    """Return a number of things in words: `1 epoch`, `2 epochs`."""
    told = format(number, form)
    return f"{told} {what}{'s' * (told != '1')}"
