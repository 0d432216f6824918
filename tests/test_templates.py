from hypothesis import given
from hypothesis import strategies as st

from seer.templates import shortened, template


@given(st.text("ab", max_size=60), st.integers(4, 40))
def test_a_long_text_keeps_its_ends(text, longest):
    short = shortened(text, longest)
    if len(text) <= longest:
        assert short == text
    else:
        begin, _, end = short.partition("…")
        assert len(short) == longest
        assert begin == text[: len(begin)]
        assert end == text[len(text) - len(end) :] != ""


def test_values_are_text_and_what_templates_make_is_not(tmp_path):
    (tmp_path / "page").write_text(
        "{% macro bold(text) %}<b>{{ text }}</b>{% endmacro %}{{ bold(name) }} {{ 3 }} {{ name | short(4) }}"
    )
    page = template(tmp_path, "page").render(name="<i>\u202e")
    assert page == "<b>&lt;i&gt;\\u202e</b> 3 &lt;i&gt;\\u202e"
    assert template(tmp_path, "page").render(name="abcdef") == "<b>abcdef</b> 3 ab…f"
