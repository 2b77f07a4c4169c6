from openslip.errors import DataError, did_you_mean, printable


def test_a_message_is_one_paragraph() -> None:
    error = DataError(
        "The shard is cut short", got="a.tar", cause="the download stopped", fix="Fetch it again"
    )
    assert str(error) == "The shard is cut short. Got: 'a.tar'. the download stopped. Fetch it again."


def test_suggestions() -> None:
    assert did_you_mean("tran", ["train", "evaluate"]) == "Did you mean 'train'?"
    assert did_you_mean("zzz", ["b", "a"]) == "Known: a, b."


def test_control_characters_of_data_do_not_reach_a_terminal() -> None:
    bad = "\x1b]0;title\x07 \u202e \ud800 \x9b"
    error = DataError(bad, got=bad, cause=bad, fix=bad)
    assert str(error).isprintable()
    assert r"\x1b]0;title\x07" in error.fix
    assert str(DataError("x", got=["\x1b"])).isprintable()
    assert printable("two\nlines, é, 漢") == "two\nlines, é, 漢"


def test_a_long_value_is_shortened() -> None:
    message = str(DataError("The image is odd", got="9" * 100_000))
    assert len(message) < 1000
    assert "(100,002 characters)" in message


def test_a_line_break_of_data_makes_no_line_of_its_own() -> None:
    error = DataError("The key 'a\nslip: all is well' is odd", cause="a list:\n  one\n  two")
    assert str(error) == "The key 'a slip: all is well' is odd. a list:\n  one\n  two."
