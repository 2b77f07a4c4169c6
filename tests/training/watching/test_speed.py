import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from openslip import recipes
from openslip.config import Config, ImageTowerConfig
from openslip.data.record import Batch
from openslip.data.schedule import Schedule
from openslip.models.inputs import Inputs
from openslip.models.text import END_OF_TEXT
from openslip.needs import IMAGE, Need, View
from openslip.objectives import At, Loss, Objective, parse
from openslip.objectives.combine import Term
from openslip.processes import Processes
from openslip.training.fixed import FixedModels, read_fixed
from openslip.training.watching import speed
from openslip.training.watching.speed import (
    Phases,
    Speed,
    Work,
    _count_step,
    count,
    data_sheet,
    kind_of,
    most_memory,
    operations_per_sample,
    peak,
)
from toys import LOSSES, RECORDS, TUNED, VARIANTS, make_student, make_tiny_config, toy_model, tuned, with_loss

CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("counted")


def batch_of(
    loss: Loss | None, rows=6, size=16, length=5, scheduled=True, more: tuple[View, ...] = ()
) -> Batch:
    views = [view.name for view in loss.views if scheduled or not view.scheduled] if loss else ["image"]
    each = (rows, loss.captions, length) if loss and loss.captions > 1 else (rows, length)
    tokens = torch.full(each, END_OF_TEXT) if loss and loss.captioned else None
    sizes = dict.fromkeys(views, size) | {view.name: view.size for view in more}
    drawn = {name: torch.zeros(rows, 3, side, side, dtype=torch.uint8) for name, side in sizes.items()}
    return Batch(drawn, {}, tokens, [str(i) for i in range(rows)], rows)


def counted_for_real(config: Config, batch: Batch, scheduled: bool = True) -> int:
    """The same count with real numbers in a real student."""
    student = make_student(config, torch.float32)
    views = {name: view.float() for name, view in batch.views.items()}
    inputs = Inputs(views, batch.tokens, records=torch.arange(len(batch.keys)) % RECORDS)
    return count(lambda: student(inputs, At(scheduled=scheduled))["loss"])


def work_of(config: Config) -> tuple[Work, Loss]:
    loss = parse(config.objective)
    return Work(config, loss, pytest.fail, fixed_of(config, loss)), loss


def fixed_of(config: Config, loss: Loss) -> FixedModels:
    return read_fixed(config, loss, Processes(), toy_model)


@pytest.mark.parametrize("loss", [*LOSSES, *VARIANTS])
def test_work_is_what_a_real_step_computes(loss) -> None:
    """With captions of one token and of the whole context to the operation, between them within three percent."""
    config = with_loss(make_tiny_config(), loss.partition(",")[0], **VARIANTS.get(loss, {}))
    work, loss = work_of(config)
    more = work.fixed.views
    context = config.model.text.context
    for length, tolerance in ((1, 0), (3, 0.03), (context // 2, 0.03), (context, 0)):
        batch = batch_of(loss, length=length, more=more)
        counted = counted_for_real(config, batch)
        assert counted > 0
        assert work(batch) == pytest.approx(counted, rel=tolerance)
    assert work(batch_of(loss, rows=12, more=more)) > 1.9 * work(batch_of(loss, more=more))


@pytest.mark.parametrize("tuning", TUNED, ids=str)
def test_work_of_tuned_towers_is_what_a_real_step_computes(tuning) -> None:
    """What is frozen has no backward pass, and adapters take products of their own."""
    config = tuned(with_loss(make_tiny_config(), "clip"), **tuning)
    work, loss = work_of(config)
    batch = batch_of(loss, length=config.model.text.context)
    assert work(batch) == counted_for_real(config, batch)
    if "statistics" not in tuning:  # which is another tower, and all of it learns
        assert work(batch) < 0.9 * work_of(with_loss(make_tiny_config(), "clip"))[0](batch)


def test_the_line_between_the_shortest_and_the_longest_captions_is_close() -> None:
    config = recipes.get("small-data")
    work, loss = work_of(config)
    batch = batch_of(loss, rows=8, size=64, length=24)
    counted = _count_step(config, loss, kind_of(batch), 24)
    assert counted <= work(batch) < 1.002 * counted
    assert work._count(kind_of(batch), 1) < 0.98 * counted
    assert work._count(kind_of(batch), config.model.text.context) > 1.1 * counted


def test_a_step_without_scheduled_views_is_a_kind_of_its_own() -> None:
    config = make_tiny_config()
    work, loss = work_of(config)
    without = batch_of(loss, scheduled=False)
    assert work(without) < 0.6 * work(batch_of(loss))
    assert work(without) == pytest.approx(counted_for_real(config, without, scheduled=False), rel=0.02)


def test_local_crops_are_counted_at_their_size() -> None:
    """Each costs a forward and a backward pass of the tower at its size, and of the head."""
    config = make_tiny_config()
    local = replace(config.views.local, size=8)
    config = replace(config, views=replace(config.views, local=local))

    def each(name: str, **options: object) -> float:
        small = with_loss(config, name, **options)
        schedule = Schedule(8, 1, 1.0)
        return operations_per_sample(small, parse(small.objective), schedule, 1)

    none, two, four = (each("dino", local=count) for count in (0, 2, 4))
    assert four - two == pytest.approx(two - none)
    student = make_student(with_loss(config, "dino"), torch.float32)
    dino: Any = student.objective["dino"]
    pictures = torch.zeros(1, 3, 8, 8)

    def crop() -> Tensor:
        return (dino.projector(student.model.image_tower(pictures)) @ dino.prototypes().T).sum()

    assert (two - none) / 2 == pytest.approx(count(crop), rel=0.02)


def test_a_convolutional_tower_is_counted() -> None:
    config = with_loss(make_tiny_config(), "simclr")
    config = replace(
        config,
        model=replace(config.model, image=ImageTowerConfig(name="test_resnet")),
        views=replace(config.views, size=32),
    )
    work, loss = work_of(config)
    batch = batch_of(loss, size=32)
    assert work(batch) == counted_for_real(config, batch) > 0


def test_a_gradient_of_grouped_convolutions_is_twice_the_convolution() -> None:
    images = torch.randn(2, 6, 8, 8, requires_grad=True)
    layer = nn.Conv2d(6, 12, 3, padding=1, groups=6, bias=False)
    forward = (
        2 * (2 * 12 * 8 * 8) * 9
    )  # a multiplication and an addition of each of 9 neighbours, in one channel

    assert count(lambda: layer(images).sum()) == 3 * forward

    whole = nn.ConvTranspose2d(6, 6, 2, stride=2, bias=False)
    assert count(lambda: whole(images).sum()) == 3 * (2 * (2 * 6 * 8 * 8) * 6 * 4)


def test_counting_draws_no_random_numbers() -> None:
    state = torch.get_rng_state()
    work, loss = work_of(make_tiny_config())
    assert work(batch_of(loss)) > 0
    peak(CPU, torch.float32)
    assert torch.equal(torch.get_rng_state(), state)


class Asking(Objective):
    """Asks something of its features."""

    name, title, views, needs = "asking", "Asking", (IMAGE,), (Need("image"),)
    ask: Any = None

    def embed(self, features):
        return {"image": features[self.needs[0]]}

    def loss(self, embeddings, at):
        type(self).ask(embeddings["image"].detach().sum())
        return {"loss": embeddings["image"].sum()}


def loss_that(ask: Any) -> Loss:
    kind: Any = type("Asking", (Asking,), {"ask": staticmethod(ask)})
    return Loss((Term(1.0, "asking", kind, kind.Config()),))


@pytest.mark.parametrize(
    "ask",
    [float, bool, Tensor.tolist, Tensor.numpy, Tensor.nonzero, lambda loss: loss[loss > 0]],
    ids=["float", "bool", "tolist", "numpy", "nonzero", "mask"],
)
def test_an_objective_that_needs_numbers_is_not_counted_and_that_is_said_once(ask) -> None:
    said, loss = [], loss_that(ask)
    work = Work(make_tiny_config(), loss, said.append)
    assert all(math.isnan(work(batch_of(loss, rows=rows))) for rows in (6, 6, 8))
    (words,) = said
    assert "no tflops and mfu" in words


def test_an_error_of_other_kinds_is_not_hidden() -> None:
    loss = loss_that(lambda _: {}["no such embedding"])
    with pytest.raises(KeyError):
        Work(make_tiny_config(), loss, pytest.fail)(batch_of(loss))


class Clock:
    """Time that passes when told to."""

    def __init__(self, monkeypatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(speed.time, "perf_counter", lambda: self.now)


def test_phases_within_phases_are_counted_once(monkeypatch) -> None:
    clock, phases = Clock(monkeypatch), Phases(CPU)
    for _ in range(2):
        clock.now += 50  # between phases
        with phases("forward"):
            clock.now += 1
            with phases("communication"):
                clock.now += 4
            clock.now += 2
        with phases("backward"):
            clock.now += 8
    assert phases.take() == pytest.approx({"forward": 6, "communication": 8, "backward": 16})
    assert phases.take() == {}


def test_a_phase_ends_with_an_error(monkeypatch) -> None:
    clock, phases = Clock(monkeypatch), Phases(CPU)

    def broken() -> None:
        with phases("forward"):
            clock.now += 3
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        broken()
    clock.now += 5
    with phases("backward"):
        clock.now += 1
    assert phases.take() == pytest.approx({"forward": 3, "backward": 1})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_phases_on_cuda_are_the_devices() -> None:
    device = torch.device("cuda")
    phases, matrix = Phases(device), torch.ones(4096, 4096, device=device)
    matrix @ matrix
    torch.cuda.synchronize()
    started = time.perf_counter()
    with phases("forward"):
        for _ in range(20):
            matrix @ matrix
    launched = time.perf_counter() - started
    torch.cuda.synchronize()
    spent, passed = phases.take()["forward"], time.perf_counter() - started
    assert launched < spent <= passed * 1.05


def test_a_line_of_speeds(monkeypatch) -> None:
    clock = Clock(monkeypatch)
    monkeypatch.setattr(speed, "most_memory", lambda device: 3 * 2**29)
    measured = Speed(CPU, lambda batch: 3 * 10**12, 10e12)
    batch = batch_of(None, rows=6)
    for _ in range(2):
        with measured.phases("forward"):
            clock.now += 0.5
        measured.add(batch, seconds=1.0, waited=0.25)
    expected = {"samples_per_second": 6.0, "data_wait": 0.25, "time_forward": 0.5, "tflops": 3.0, "mfu": 0.3}
    assert measured.take() == expected | {"memory_gib": 1.5}
    measured.work = lambda batch: math.nan
    measured.add(batch, seconds=2.0, waited=0.0)
    monkeypatch.setattr(speed, "most_memory", lambda device: 0)
    assert measured.take() == {"samples_per_second": 3.0, "data_wait": 0.0}


def test_the_peak_of_memory_is_said_after_the_second_step_and_for_every_other_kind(monkeypatch) -> None:
    said, gib = [], iter([1.0, 1.5])
    monkeypatch.setattr(speed, "most_memory", lambda device: int(next(gib) * 2**30))
    measured = Speed(CPU, lambda batch: 1.0, 1.0, inform=said.append)
    loss = parse(make_tiny_config().objective)
    full, light = batch_of(loss), batch_of(loss, scheduled=False)
    measured.add(full, 1.0, 0.0)
    assert not said  # the optimiser has only just made its moments
    for batch in (full, full, light, light):
        measured.add(batch, 1.0, 0.0)
    words = "GiB is the most that this process took so far"
    assert said == [f"memory     1.00 {words}", f"memory     1.50 {words}"]


def test_the_peak_of_memory_is_the_systems(monkeypatch, tmp_path) -> None:
    assert 2**26 < most_memory(CPU) < 2**42  # PyTorch alone takes more than 64 MiB
    monkeypatch.setattr(speed, "Path", lambda place: tmp_path / "no such file")
    assert 2**26 < most_memory(CPU) < 2**42
    (tmp_path / "status").write_text("VmPeak:\t   99999 kB\nVmHWM:\t    2048 kB\n")
    monkeypatch.setattr(speed, "Path", lambda place: tmp_path / "status")
    assert most_memory(CPU) == 2048 * 1024


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_peak_of_memory_on_cuda_is_the_devices() -> None:
    before = most_memory(torch.device("cuda"))
    held = torch.ones(before + 2**28, dtype=torch.uint8, device="cuda")
    assert most_memory(held.device) >= before + 2**28


@pytest.mark.parametrize(
    ("name", "bf16", "fp32"),
    [
        ("NVIDIA H200", 989e12, 67e12),
        ("NVIDIA H100 80GB HBM3", 989e12, 67e12),
        ("NVIDIA H100 PCIe", 756e12, 51e12),
        ("NVIDIA A100-SXM4-80GB", 312e12, 19.5e12),
        ("NVIDIA L4", 121e12, 30.3e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12, 82.6e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 0, 0),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 0, 0),
        ("NVIDIA H200 NVL", 835e12, 60e12),
        ("NVIDIA H20", 0, 0),
    ],
)
def test_data_sheets(name, bf16, fp32) -> None:
    assert data_sheet(name, torch.bfloat16) == bf16
    assert data_sheet(name, torch.float16) == bf16
    assert data_sheet(name, torch.float32) == fp32


@pytest.fixture
def _not_measured_yet() -> Iterator[None]:
    speed._measure.cache_clear()
    yield
    speed._measure.cache_clear()


@pytest.mark.usefixtures("_not_measured_yet")
def test_an_unknown_device_is_measured_once_by_the_fastest_product(monkeypatch) -> None:
    products = [(1.0, 1.02), (1.03, 1.04), (1.05, 1.08)]
    asked = [1.0, *products[0], 1.02, *products[1], 1.04, *products[2], 1.1 + speed.MEASURING_SECONDS]
    monkeypatch.setattr(speed.time, "perf_counter", iter(asked).__next__)
    for _ in range(2):
        fastest, origin = peak(CPU, torch.float32)
        assert fastest == pytest.approx(2 * 1024**3 / 0.01)
        assert origin == "measured"
