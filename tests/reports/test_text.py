"""How numbers and names are written."""

import numpy as np
import pytest

from reports import figures, text


@pytest.mark.parametrize(
    ("plain", "written"),
    [
        ("50 % of ab_c & {c} #1 $2", r"50 \% of ab\_c \& \{c\} \#1 \$2"),
        ("η_LL", r"$\eta_{\mathrm{LL}}$"),
        ("lower_steps", r"lower\_steps"),
        ("6.12×10⁻⁴", r"6.12$\times$10$^{-4}$"),
        ("ALSET†", r"ALSET$^{\dagger}$"),
        ("a\\b~c^d", r"a\textbackslash{}b\textasciitilde{}c\textasciicircum{}d"),
        ("<script>", r"\textless{}script\textgreater{}"),
        ("1 ± 2", r"1 $\pm$ 2"),
        ("t", "$t$"),
        ("= t", "= $t$"),
        ("α", r"$\alpha$"),
        ('"', "''"),
        ("a_b_c", r"$a_{\mathrm{b\_c}}$"),
        ("Val ↓", r"Val $\downarrow$"),
        ("Łódź café", "Łódź café"),
        ("中 Ж \u0301", "{[}U+4E2D] {[}U+0416] {[}U+0301]"),
    ],
)
def test_latex(plain: str, written: str) -> None:
    assert text.latex(plain) == written


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (90, "90"),
        (20_000, "20\u202f000"),
        (7730.4, "7.73×10³"),
        (4e8, "4.00×10⁸"),
        (0.0567, "0.0567"),
        (2.35e-4, "2.35×10⁻⁴"),
        (np.nan, "–"),
        (None, "–"),
        (True, "True"),
        ("sgd", "sgd"),
    ],
)
def test_parameter(value: object, written: str) -> None:
    assert text.parameter(value) == written


def test_bounds_are_powers_of_ten_where_they_are() -> None:
    assert [text.bound(b) for b in (1e-4, 10, 1e4, 0, 0.5, 2e6)] == [
        "10⁻⁴",
        "10",
        "10⁴",
        "0",
        "0.5",
        "2.00×10⁶",
    ]


def test_scores() -> None:
    assert text.score(np.inf, 2) == "∞"
    assert text.score(np.nan, 2) == "–"
    assert [text.score(v, 2) for v in (0.0, 0.01, 0.0099)] == ["0.00", "0.01", "9.90×10⁻³"]
    assert text.spread(1.234, np.nan, 2) == "1.23"
    assert text.spread(1.234, 0.5, 2) == "1.23 ± 0.50"
    assert [text.decimals([v]) for v in (76.8, 1.5, 0.012, np.nan)] == [2, 3, 5, 2]


def test_mathtext_leaves_dollars_alone() -> None:
    assert text.mathtext("cost ($) of η_LL") == r"cost (\$) of $\eta_{\mathrm{LL}}$"


def test_markdown_cells_cannot_break_a_table() -> None:
    assert text.markdown("a|b*<c") == r"a\|b\*&lt;c"


def test_ticks_of_one_axis_have_one_style() -> None:
    assert text.ticks([1, 2, 5, 10_000]) == ["1", "2", "5", "10000"]
    assert text.ticks([1, 100, 1e6]) == ["10⁰", "10²", "10⁶"]
    assert text.ticks([2e-4, 0.1]) == ["2×10⁻⁴", "10⁻¹"]


@pytest.mark.parametrize(
    ("recorded", "symbol"),
    [
        ("alpha", "α"),
        ("eta_LL", "η_LL"),
        ("kappa_0", "κ_0"),
        ("c_h/L", "c_h/L"),
        ("etas", "etas"),
        ("t", "t"),
    ],
)
def test_greek_names_become_letters(recorded: str, symbol: str) -> None:
    assert text.greek(recorded) == symbol


@pytest.mark.parametrize("label", ["\\x_1", "$x_1", "a\\", "x_1 $ \\ %#{}", "a_b_c", "^{", "中_文", 'q"_\\'])
def test_matplotlib_draws_any_label(label: str) -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    axes.set_title(text.mathtext(label))
    with figures.house_style():
        axes.figure.draw_without_rendering()


def test_words_from_outside_are_made_plain() -> None:
    assert text.plain("a\x1b[31mb\n\tc\u202e", 40) == "a�[31mb c�"
    assert text.plain("x" * 20_000, 40) == "x" * 39 + "…"
