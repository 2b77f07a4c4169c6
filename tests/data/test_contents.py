from openslip.data.contents import TOLD, Contents
from openslip.data.record import as_source
from openslip.data.sources.mixture import Mixture
from openslip.data.subset import Subset
from toys import ToySource


def some() -> Contents:
    contents = Contents("members")
    contents.see(10)
    contents.leave_out("the sample has no picture", "a.txt", 2)
    contents.leave_out("the sample has no picture", "b.txt")
    contents.leave_out("hidden file", "._a.jpg", lost=False)
    return contents


def test_counts_add_up_and_the_first_example_stays() -> None:
    contents = some()
    assert (contents.seen, contents.used, contents.lost) == (10, 6, 3)
    assert contents.summary() == (
        "10 members seen, 6 used; left out:\n"
        "  3 × the sample has no picture, for example a.txt\n"
        "  1 × hidden file, for example ._a.jpg"
    )


def test_of_many_reasons_some_are_told() -> None:
    contents = Contents("members", 20)
    for number in range(20):
        contents.leave_out(f"reason {number}", "a.x")
    *_, last = contents.reasons()
    assert (len(contents.reasons()), last) == (9, "12 × 12 other reasons, for example reason 8: a.x")
    assert len(contents.to_dict()["left_out"]) == 20


def test_nothing_left_out_is_nothing_to_say() -> None:
    contents = Contents("rows")
    contents.see(5)
    assert contents.summary() == ""
    assert not contents.large_loss


def test_only_what_is_missed_makes_a_loss_large() -> None:
    contents = Contents("files", 100)
    contents.leave_out("hidden file", ".x", 50, lost=False)
    contents.leave_out("no known format", "a.heic", 1)
    assert not contents.large_loss
    contents.leave_out("no known format", "b.heic", 1)
    assert contents.large_loss


def test_adds_up_and_survives_json() -> None:
    both = some()
    both.add(some())
    assert both.seen == 20
    assert both.left_out["the sample has no picture"].count == 6
    assert Contents.from_dict(both.to_dict()) == both


class Listed(list):
    name = "here"
    contents = some()


def test_a_mixture_and_a_subset_say_what_their_sources_hold() -> None:
    source = as_source(Listed([1, 2, 3]))
    assert source.contents_by_name() == [("here", some())]
    assert Subset(source, [1]).contents_by_name() == [("here", some())]
    assert Mixture([source, source], [1, 1]).contents_by_name() == [("here", some())] * 2
    assert ToySource().contents_by_name() == []


def test_names_in_reasons_are_bounded_and_pass_for_no_other_line() -> None:
    contents = Contents("files")
    for number in range(1000):
        contents.leave_out(f"an ending .{number}\nslip: \x1b[2Jdone" + "x" * 1000, "a\nslip: done" * 1000)
    assert len(contents.left_out) == 101
    assert contents.left_out["still other reasons"].count == 900
    assert all(len(line) < 500 and "\x1b" not in line for line in contents.reasons())
    assert len(contents.summary().splitlines()) == TOLD + 2  # the head, and how many more there are
