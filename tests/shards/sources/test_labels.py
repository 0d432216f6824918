import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.sources import labels
from shards.sources.labels import MAX_CLASSES, Label, cleaned, parse, parse_bytes


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("3", Label(number=3)),
        (" 03\n", Label(number=3)),
        ("3.0", Label(number=3)),
        ("1e3", Label(number=1000)),
        (str(MAX_CLASSES - 1), Label(number=MAX_CLASSES - 1)),
        (str(MAX_CLASSES), Label(bad=True)),
        ("999999999", Label(bad=True)),
        ("9" * 5000, Label(bad=True)),
        ("0.5", Label(bad=True)),
        ("inf", Label(bad=True)),
        ("-inf", Label()),
        ("nan", Label()),
        ("NaN", Label()),
        ("-1", Label()),
        ("-100.0", Label()),
        ("", Label()),
        (" ", Label()),
        ("cat", Label(name="cat")),
        (" great dane\r\n", Label(name="great dane")),
        ("n02084071", Label(name="n02084071")),
        ("1st", Label(name="1st")),
        ("雪", Label(name="雪")),
        ("[1, 2]", Label(bad=True)),
        ('{"a": 1}', Label(bad=True)),
        ("1 2", Label(bad=True)),
        ("1,2", Label(bad=True)),
        ("cat\ndog", Label(bad=True)),
        ("x" * 257, Label(bad=True)),
    ],
)
def test_what_a_label_says(text, label):
    assert parse(text) == label


def test_bytes_that_are_no_text():
    assert parse_bytes(b"caf\xe9") == Label(bad=True)
    assert parse_bytes(b"7") == Label(number=7)


@given(st.text())
def test_any_text_is_a_class_or_none(text):
    label = parse(text)
    assert (label.number is not None) + (label.name is not None) + label.bad <= 1
    assert label.number is None or 0 <= label.number < MAX_CLASSES
    assert label.name is None or 0 < len(label.name) <= labels.MAX_NAME
    assert label.text is None or parse(label.text) == label


def test_a_column_is_cleaned_and_what_was_left_out_is_told():
    column = pa.array(["1.0", "nan", None, "2", "0.25", "-1", "0.25", "1"])
    clean, bad = cleaned(column)
    assert clean.to_pylist() == ["1", None, None, "2", None, None, None, "1"]
    assert bad == [("0.25", 2)]
