"""From a configuration and data to a run: what `openslip.train` does, in order."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import torch
from rich.console import Console

from openslip import progress
from openslip.config import Config
from openslip.data.data import Data
from openslip.data.decode import check_decoder
from openslip.data.identity import Identity
from openslip.data.record import Records
from openslip.errors import ConfigError
from openslip.models.tuning import tune
from openslip.models.weights import Pretrained
from openslip.needs import LOGIT_SCALE
from openslip.objectives import Objective, own, parse
from openslip.processes import Processes, joined
from openslip.training import asked, start
from openslip.training.evaluating import Evaluate
from openslip.training.fixed import FixedModels, check_same, load, read_fixed
from openslip.training.kept_features import check_room, keeping
from openslip.training.parallel import Parallel, parallelise
from openslip.training.plan import Plan, check_ssl, make_plan
from openslip.training.plan_summary import describe
from openslip.training.precision import choose_device
from openslip.training.prepare import prepare
from openslip.training.saving import checkpoint
from openslip.training.saving.run import RunFolder
from openslip.training.state import State
from openslip.training.student import Student, build_student
from openslip.training.trainer import Trainer
from openslip.training.watching.tracking import check_trackers


def train(
    config: Config | str | os.PathLike[str],
    source: Records | str | os.PathLike[str],
    out: str | os.PathLike[str] = "",
    *,
    ssl: Records | str | os.PathLike[str] | None = None,
    evaluate: Evaluate | None = None,
    resume: bool = False,
    objective: type[Objective] | str | None = None,
    init: Pretrained | str | os.PathLike[str] | None = None,
    console: Console | None = None,
    processes: Processes | None = None,
) -> RunFolder:
    """Train as `config` says on `source`, writing to the run folder `out`; return the run folder.

    `config` may be the name of a recipe, or the path of a TOML file. `source` may be what `openslip.open_source` takes.
    The configuration's options for data then apply to it, and the run notes it as `data.train`. Without `out` the
    folder is `runs/NAME`, with the configuration's name.

    `ssl`: where the images of the self-supervised views come from, if not from `source`.

    With `resume`, a run in `out` continues from its newest checkpoint, and ends with the weights of an uninterrupted
    run (bit for bit on a CPU). If `out` holds no run, a run starts.
    `evaluate` takes the model and returns results (see `openslip.evaluation.Result`). It is called at the configured
    cadence and at the end; its last results become the run's results.json.

    `objective`: what to minimise in place of the configuration's loss. Give an objective's class, or a loss as text, in
    which classes of your own have the names `module:Class`. A resumed run needs the same classes again.

    init: what to start from, in place of the configuration's `init`. Give what `openslip.load` takes, or weights that
    you have read already (`openslip.interop.read`). A resumed run needs neither, except for an objective that learns
    from the model that the run started from (`preserve`).

    Under `torchrun` all processes train together, as one process would with the whole batch. The first process writes
    the run folder and measures. processes: what `openslip.processes.joined` yields, if you have called it already.

    Raises ConfigError, DataError, CheckpointError, TrainingError or ProcessError. After any error, the newest
    checkpoint is complete.
    """
    asked.leave_if_imported()
    config = asked.with_objective(asked.config_of(config), objective)
    config, init = asked.with_init(config, init)
    asked.check_evaluate(evaluate)
    captioned = parse(config.objective).captioned
    console = console or Console(stderr=True)
    run = RunFolder(asked.out_of(out, config), partial(_print, console))
    with ExitStack() as stack:
        if processes is None:
            processes = stack.enter_context(joined(choose_device(config.training.device)))
        with processes.first_goes_ahead():
            data, named = asked.data_of(source, ssl, config, captioned=captioned)
        config = asked.with_positives(config, classes=data.train.captions_name_classes)
        loss = parse(config.objective)
        asked.check_labels(loss, data)
        config = replace(config, objective=replace(config.objective, options=loss.options))
        config, init = _starting(asked.recorded(config, *named), init, run, resume, processes)
        plan = make_plan(config, loss, data.epoch_length, processes.world, processes.device)
        if data.ssl is not None:
            check_ssl(loss)
        check_decoder(config.data.decoder)
        check_trackers(config.tracking)
        with processes.together():
            if processes.first:
                run.check_new(resume)
                stack.enter_context(run.locked())
                run.check_new(resume)  # another process may have made one meanwhile
        parallel, fresh = _begin(
            plan, data, init, run, resume, console, processes, evaluated=evaluate is not None
        )
        init = None  # its weights are in the student now, and not wanted twice
        state = State(plan, run, data, parallel, processes, partial(_print, console), fresh)
        with Trainer(state, evaluate, console) as trainer:
            state.restore()
            trainer.keep()
            if state.plan.seconds:
                trainer.rehearse()
            trainer.run()
    return run


def _starting(
    config: Config, init: Pretrained | None, run: RunFolder, resume: bool, processes: Processes
) -> tuple[Config, Pretrained | None]:
    """Return the configuration with what follows from the weights that the run starts from, and these; all call it.

    The weights are None if `init` names none. A run that resumes reads none, because its checkpoint has its own.
    """
    if init is None and not config.init:
        start.check_size(config)
        return config, None
    config = replace(config, init=init.origin.spec if init else config.init)
    goes_on = False
    with processes.together():
        if processes.first:
            there = resume and run.exists() and checkpoint.any_there(run.checkpoints)
            goes_on = there and (run.begun() or run.config.init == config.init)
    (goes_on,) = processes.any(goes_on)
    if goes_on:
        return start.adopted_as_in_run(config, run.config), init
    init = init or _read(config.init, processes)
    return start.adopted(config, init), init


def _read(spec: str, processes: Processes) -> Pretrained:
    """Return the weights that a run starts from. The first process downloads missing files; the others wait."""
    from openslip.interop import read

    found: list[Pretrained] = []
    with processes.first_goes_ahead():
        found.append(read(spec))
    return found[0]


def _begin(
    plan: Plan,
    data: Data,
    init: Pretrained | None,
    run: RunFolder,
    resume: bool,
    console: Console,
    processes: Processes,
    *,
    evaluated: bool,
) -> tuple[Parallel, Collection[str]]:
    """Return what is trained, with the weights it starts from, and the names of the tensors that these weights lack.

    Prints the plan of the run, and makes the run's folder if it is new.

    Raises ConfigError if the folder holds another run.
    """
    config, begun, new = plan.config, False, False
    identity: Identity = {}
    with processes.together():
        if processes.first:
            identity = data.identity(captioned=plan.loss.captioned)
            new = _is_new(run, config, identity, resume)
            begun = not new and checkpoint.any_there(run.checkpoints)
    (begun,) = processes.any(begun)
    fixed = read_fixed(config, plan.loss, processes, partial(load, start=init)).to(plan.device)
    with processes.together():
        if processes.first and not new:
            check_same(run.noted_fixed(), fixed)
    if config.init and not begun:
        init = init or _read(config.init, processes)
    student, started = _student(plan, fixed, None if begun else init, data.records, begun=begun)
    fresh = None if not config.init else started.fresh if started else run.fresh()
    keeps = keeping(config, student, ssl=data.ssl is not None)
    with processes.together():
        if processes.first:
            check_room(keeps, data, run.path)
            words = describe(plan, student, run.path, data, started, keeps, evaluated=evaluated, fresh=fresh)
            if new:
                if run.exists():
                    run.start_anew()
                run.create(config, identity, started.to_dict() if started else None, fixed.noted())
            elif started:
                run.note_start(started.to_dict())
            progress.print_text(console, words)
    parallel = parallelise(
        student,
        config.training.parallel,
        dtype=plan.dtype,
        offload=config.training.offload,
        # A user's own class may have a head that its loss leaves out. A text tower comes with a logit scale.
        some_unused=not plan.schedule.every_step
        or bool(own.named(config.objective.loss))
        or (student.model.logit_scale is not None and LOGIT_SCALE not in plan.loss.needs),
    )
    return parallel, fresh or ()


def _student(
    plan: Plan, fixed: FixedModels, init: Pretrained | None, records: int, *, begun: bool
) -> tuple[Student, start.Start | None]:
    """Return the student, ready to train, and its `Start`, if it does not start from random weights.

    records: the number of records that are trained on. begun: whether a checkpoint's weights will be put in.
    """
    config = plan.config
    # After the fixed models, because building one may draw random numbers.
    torch.manual_seed(config.training.seed)
    own = init.weights.get("text_tower.tokenizer") if init else None
    own_tokenizer = b"" if own is None else own.cpu().numpy().tobytes()
    student = build_student(config, plan.loss, fixed=fixed, own_tokenizer=own_tokenizer, records=records)
    started = start.fill(student, init) if init else None
    if not begun:
        text = student.model.text_tower
        fixed.check_tokenizer(b"" if text is None else text.own_tokenizer)
    student.to(plan.device)
    tune(student.model, config.model, config.views.size)
    prepare(student.model, plan.device, plan.dtype, config.training)
    return student.add_teachers(), started


def _is_new(run: RunFolder, config: Config, identity: Identity, resume: bool) -> bool:
    """Return whether a new run starts here, or the run that is here resumes. Raises ConfigError if neither can be.

    A start that failed before it learned anything is not a run to resume.
    """
    if not run.exists():
        run.check_unused()
        return True
    try:
        run.check_same(config, identity)
    except ConfigError:
        if run.begun():
            raise
        return True
    return not resume and not run.begun()


def _print(console: Console, words: str) -> None:
    progress.print_text(console, textwrap.indent(words, "  "))
