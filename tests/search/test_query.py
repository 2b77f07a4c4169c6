from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openslip.errors import ConfigError, DataError, EvaluationError, SlipError
from openslip.search import query
from openslip.search.query import Term, described, notes_of, parse, terms_of, vector_of
from searched import some_vectors, tiny_model, write_index, write_pictures


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two pictures in the current folder, `a.jpg` and `my photo.png`, as they are named."""
    first, second = write_pictures(tmp_path, 2)
    monkeypatch.chdir(tmp_path)
    return [first.rename("a.jpg"), second.rename("my photo.png")]


TEXTS = (
    "red summer dress",
    "t-shirt",
    "t-shirt - blue",
    "t-shirt + blue",
    "16:9 poster",
    "C++ book",
    "C++",
    "a-b",
    "- red",
    "-red",
    "--where",
    "1 + 1",
    'a 12" record - not a 7" one',
    'the "best" + cheap',
    'the "best" dress',
    '"best" dress',
    "node.js",
    "what is e.g. a cat?",
    "2:dress",
    "3:",
    "日本の猫",
    "a/b",
    "−",
)


@pytest.mark.parametrize("text", TEXTS[:-1])
def test_one_word_without_quotes_or_pictures_is_a_text(text: str) -> None:
    assert parse([text]) == [Term(1.0, text)]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["red", "summer", "dress"], "red summer dress"),
        (["C++", "book"], "C++ book"),
        (["16:9", "poster"], "16:9 poster"),
        (['"red dress"'], "red dress"),
        (['"2:dress"'], "2:dress"),
        (['"t-shirt - blue"'], "t-shirt - blue"),
        ([" red "], "red"),
    ],
)
def test_words_without_a_sign_are_one_text(words: list[str], text: str) -> None:
    assert parse(words) == [Term(1.0, text)]


MIXTURE = [Term(2.0, "dress"), Term(1.0, picture="./a.jpg"), Term(-1.0, "long sleeves")]


@pytest.mark.parametrize(
    "words",
    [
        ["2:dress", "+", "./a.jpg", "-", "long sleeves"],
        ["2:dress", "+", "./a.jpg", "-", "long", "sleeves"],
        ["2:dress", "+", "./a.jpg", "−", "long sleeves"],
        ['2:"dress"', "+", "./a.jpg", "-", '"long sleeves"'],
        ['"2:dress" + ./a.jpg - "long sleeves"'],
        ['2:"dress" + ./a.jpg - long sleeves'],
        ['+ 2:dress   +\n"./a.jpg" - "1:long sleeves"'],
        ["2: dress + ./a.jpg - long sleeves"],
    ],
)
def test_a_mixture_is_the_same_as_several_words_and_as_one(pictures, words: list[str]) -> None:
    assert parse(words) == MIXTURE


def test_pictures_are_paths_that_look_like_some(pictures) -> None:
    assert parse(["a.jpg"]) == [Term(1.0, picture="a.jpg")]
    assert parse(["my photo.png"]) == [Term(1.0, picture="my photo.png")]
    assert parse(["my", "photo.png"]) == [Term(1.0, picture="my photo.png")]
    assert parse(['"./my photo.png" + "blue"']) == [Term(1.0, picture="./my photo.png"), Term(1.0, "blue")]
    assert parse(["./my photo.png + blue"]) == [Term(1.0, picture="./my photo.png"), Term(1.0, "blue")]
    assert parse(["0.5:a.jpg", "+", "blue"]) == [Term(0.5, picture="a.jpg"), Term(1.0, "blue")]


@pytest.mark.parametrize(
    "words",
    [
        ["a.jpg", "my photo.png"],
        ["red", "./a.jpg"],
        ["red", "+", "a.jpg", "a.jpg"],
        ["a.jpg", "red", "-", "blue"],
    ],
)
def test_pictures_side_by_side_are_no_text(pictures, words: list[str]) -> None:
    with pytest.raises(ConfigError, match="without a sign"):
        parse(words)
    assert parse(words, paths=False)


def test_without_paths_nothing_is_a_picture(pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query.os.path, "exists", lambda path: pytest.fail("the disk was looked at"))
    monkeypatch.setattr(query.os.path, "isfile", lambda path: pytest.fail("the disk was looked at"))
    assert parse(["a.jpg"], paths=False) == [Term(1.0, "a.jpg")]
    assert terms_of("/etc/passwd", paths=False) == [Term(1.0, "/etc/passwd")]
    assert terms_of([(2, "../a.jpg")], paths=False) == [Term(2.0, "../a.jpg")]
    assert parse(['"dress" - "./a.jpg"'], paths=False) == [Term(1.0, "dress"), Term(-1.0, "./a.jpg")]
    assert parse(["dress - ./a.jpg"], paths=False) == [Term(1.0, "dress - ./a.jpg")]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["./none.jpg"], "no such picture"),
        (["none.png"], "no such picture"),
        (["https://example.org/a.jpg"], "Fetch it first"),
        (["~/none/here"], "no such picture"),
        ([""], "nothing to search for"),
        (["  "], "nothing to search for"),
        ([], "nothing to search for"),
        (['""'], "nothing to search for"),
        (["dress", "+", '""'], "nothing to search for"),
        (["-"], "A sign needs a term"),
        (["+", "-"], "A sign needs a term"),
        (["dress", "+"], "A sign needs a term"),
        (["dress", "+", "-", "red"], "A sign needs a term"),
        (['"dress" +'], "A sign needs a term"),
        (['"dress" + - "red"'], "A sign needs a term"),
        (['"dress"+"red"'], "needs a space"),
        (['"dress" -"red"'], "needs a space"),
        (['"dress" -2:"red"'], "needs a space"),
        (["dress", "+", "16:9 poster"], "two ways"),
        (['"dress" + "16:9 poster"'], "two ways"),
    ],
)
def test_what_is_no_query_is_an_error_in_words(words: list[str], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        parse(words)


def test_a_text_with_a_ratio_is_told_from_a_weight() -> None:
    with pytest.raises(ConfigError) as raised:
        parse(["dress", "-", "16:9 poster"])
    both = re.findall(r"'(\S+?\".*?\")'", raised.value.fix)
    assert [parse(["dress", "-", one])[1] for one in both] == [
        Term(-1.0, "16:9 poster"),
        Term(-16.0, "9 poster"),
    ]


def test_long_queries_are_refused_at_once() -> None:
    for words in (["x" * 10_000_000], ["red "] * 2_501, ['"' * 10_001]):
        with pytest.raises(DataError, match="at most 10,000 characters") as raised:
            parse(words)
        assert len(str(raised.value)) < 400
    assert parse(["x" * 10_000])[0].text == "x" * 10_000


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters='"'), max_size=60))
def test_a_text_without_quotes_stays_what_it_is_or_is_refused(text: str) -> None:
    try:
        terms = parse([text], paths=False)
    except ConfigError:
        terms = []
    nothing = not text.strip() or text.strip() in query.SIGNS
    assert terms == ([] if nothing else [Term(1.0, text.strip())])


@given(st.text(alphabet='ab "+-−:1.2/~\n', max_size=30), st.booleans())
def test_whatever_is_written_is_read_or_refused_in_words(text: str, split: bool) -> None:
    words = text.split(" ") if split else [text]
    try:
        terms = parse(words, paths=False)
    except SlipError:
        return
    assert terms
    assert all(term.text.strip() and term.weight == term.weight for term in terms)


plain = st.text(alphabet=st.characters(categories=["L", "N", "P", "S"], exclude_characters='"'), min_size=1)
weights = st.sampled_from([0.5, 1.0, 2.0, 16.0, 0.25])


@given(st.lists(st.tuples(weights, st.sampled_from([1, -1]), plain), min_size=2, max_size=5))
def test_a_mixture_as_it_is_described_is_read_as_it_was(parts) -> None:
    terms = [Term(weight * sign, text) for weight, sign, text in parts]
    assert parse([described(terms)], paths=False) == terms


def test_a_single_term_is_described_as_it_was_written() -> None:
    assert described([Term(1.0, "red dress")]) == "red dress"
    assert described([Term(1.0, picture=Path("a b.jpg"))]) == '"a b.jpg"'
    vector = np.ones(4)
    terms = [Term(2.0, row=4), Term(-1.0, vector=vector), Term(1.0, picture=b"x")]
    assert described(terms) == "2:row 4 - an embedding + a picture"


def test_things_of_a_program() -> None:
    vector = np.ones(8, np.float32)
    assert terms_of(3) == [Term(1.0, row=3)]
    assert terms_of(np.int64(3)) == [Term(1.0, row=3)]
    for one in (vector, vector[None], torch.ones(8), torch.ones(1, 8)):
        [term] = terms_of(one)
        assert term.vector is not None
        assert term.vector.shape == (8,)
    assert terms_of([(2, "dress"), Term(-1.0, "red")]) == [Term(2.0, "dress"), Term(-1.0, "red")]
    assert terms_of([(-0.5, 7)]) == [Term(-0.5, row=7)]
    for wrong in ((2, "dress"), ["dress"], [("dress", 2)], [None], [(1, 2, 3)]):
        with pytest.raises(ConfigError, match="list of pairs"):
            terms_of(wrong)


def index(tmp_path: Path, count: int = 5, **options):
    return write_index(tmp_path / "index", some_vectors(count), **options)


def test_an_embedding_is_the_weighted_sum_of_those_of_length_one(tmp_path: Path, pictures) -> None:
    there = index(tmp_path)
    model = there.model
    text = model.encode_text("dress", numpy=True)[0].astype(np.float64)
    image = model.encode_image("a.jpg", numpy=True)[0].astype(np.float64)
    row = there.vectors[2].astype(np.float64)
    expected = (
        2 * text / np.linalg.norm(text) - 0.5 * image / np.linalg.norm(image) + row / np.linalg.norm(row)
    )
    expected /= np.linalg.norm(expected)
    terms = [Term(2, "dress"), Term(-0.5, picture="a.jpg"), Term(1.0, row=2)]
    found = vector_of(there, terms)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)
    huge = [Term(5e307 * term.weight, term.text, term.picture, term.row) for term in terms]
    np.testing.assert_allclose(vector_of(there, huge), expected, atol=1e-6)
    # The length of an embedding that is handed in does not matter, however large it is.
    for factor in (1e-30, 1.0, 1e30):
        np.testing.assert_allclose(
            vector_of(there, [Term(vector=row * factor)]), row / np.linalg.norm(row), atol=1e-6
        )


@pytest.mark.parametrize(
    ("terms", "error", "words"),
    [
        ([], ConfigError, "1 to 64 terms"),
        ([Term(1.0, "a")] * 65, ConfigError, "1 to 64 terms"),
        ([Term(float("nan"), "a")], ConfigError, "finite"),
        ([Term(float("inf"), "a")], ConfigError, "finite"),
        ([Term(0.0, "a")], ConfigError, "cancel"),
        ([Term(1.0, row=1), Term(-1.0, row=1)], ConfigError, "cancel"),
        ([Term(1.0, " ")], ConfigError, "nothing to search for"),
        ([Term(1.0, "x" * 10_001)], DataError, "at most 10,000"),
        ([Term(1.0, row=5)], DataError, "no such row"),
        ([Term(1.0, row=-1)], DataError, "no such row"),
        ([Term(1.0, vector=np.ones(7))], DataError, "8 finite numbers"),
        ([Term(1.0, vector=np.zeros(8))], DataError, "8 finite numbers"),
        ([Term(1.0, vector=np.full(8, np.nan))], DataError, "8 finite numbers"),
        ([Term(1.0, picture=b"<svg></svg>")], DataError, "picture to search for"),
        ([Term(1.0, picture={"a": 1})], DataError, "picture to search for"),  # type: ignore[bad-argument-type]
        ([Term(1.0, picture=True)], DataError, "picture to search for"),  # type: ignore[bad-argument-type]
        ([Term(1.0, picture=np.zeros((4, 4)))], DataError, "picture to search for"),
    ],
)
def test_what_gives_no_embedding_is_an_error_in_words(tmp_path, terms, error, words) -> None:
    with pytest.raises(error, match=words):
        vector_of(index(tmp_path), terms)


def test_a_folder_is_no_picture(tmp_path: Path, pictures) -> None:
    with pytest.raises(DataError, match="picture to search for"):
        vector_of(index(tmp_path), [Term(1.0, picture=tmp_path)])


def test_texts_need_a_model_that_knows_some(tmp_path: Path, pictures) -> None:
    model = tiny_model("simclr")
    dim = model.encode_image("a.jpg").shape[1]
    there = write_index(tmp_path / "index", some_vectors(5, dim), model=model)
    with pytest.raises(EvaluationError, match="no text tower"):
        there.search("a dress")
    assert len(there.search("./a.jpg")) == 5
    assert notes_of(model, [Term(1.0, "a dress")]) == []


def test_half_characters_of_a_command_line_are_no_traceback(tmp_path: Path) -> None:
    assert len(index(tmp_path).search("caf\udce9")) == 5


def test_what_the_model_does_not_read_is_told(tmp_path: Path) -> None:
    there = index(tmp_path)
    words = [
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
    ]
    assert there.search(" ".join(words[:10])).notes == ()
    [note] = there.search(" ".join(words)).notes
    assert note == (
        "The model reads 10 tokens of a text, and this text has 12: the part after "
        f"'{' '.join(words[:10])}' is left out"
    )
    [note] = there.search("x" * 5_000).notes
    assert note.endswith("the end is left out")
    # The part that is left out changes nothing.
    cut, whole = (there.search(" ".join(some)) for some in (words[:10], words))
    assert cut.rows.tolist() == whole.rows.tolist()
    assert np.array_equal(cut.scores, whole.scores)
