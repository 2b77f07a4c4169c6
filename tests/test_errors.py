from slip.errors import DataError, did_you_mean


def test_a_message_is_one_paragraph() -> None:
    error = DataError(
        "The shard is cut short", got="a.tar", cause="the download stopped", fix="Fetch it again"
    )
    assert str(error) == "The shard is cut short. Got: 'a.tar'. the download stopped. Fetch it again."


def test_suggestions() -> None:
    assert did_you_mean("tran", ["train", "evaluate"]) == "Did you mean 'train'?"
    assert did_you_mean("zzz", ["b", "a"]) == "Known: a, b."
