"""The page that compares runs, in a real browser."""

import re

import numpy as np
import pytest

from detection_task import DETECTION
from tests.tools.run_curves.run_logs import ONE, TWO, made_with
from tools.run_curves.charts import run_colours
from tools.run_curves.options import mean_over_seeds
from tools.run_curves.page import write_page
from tools.run_curves.runs import LoggedRun
from training.log import flat

pytestmark = pytest.mark.browser

EVIL = "<b>x</b></script><script>broken()</script>"


@pytest.fixture
def page(tmp_path, open_page):
    """The page of two runs and of one with a bad name."""
    out = tmp_path / "page & more.html"
    one = [flat(row, DETECTION.log) for row in ONE]
    one[0]["train_images_per_second"] = 12.5
    two = [flat(row, DETECTION.log) for row in TWO]
    runs = (("one", one), ("two", two), (EVIL, one[:1]))
    write_page([LoggedRun(name, rows, start=made_with()) for name, rows in runs], out)
    return open_page(out)


def all_of(page, selector: str) -> list:
    return page.find_elements("css selector", selector)


def chart_of(page, title: str):
    (chart,) = (
        box for box in all_of(page, ".chart") if box.find_element("tag name", "h3").text == title
    )
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    return chart.find_element("tag name", "svg")


def tooltip_at(page, title: str, share: float) -> str:
    """The tooltip's text with the pointer in a chart, at this share of the epochs."""
    from selenium.webdriver import ActionChains

    svg = chart_of(page, title)
    left, right = 52 / 400, 390 / 400  # of the chart's axis
    x = (left + share * (right - left) - 0.5) * svg.size["width"]
    ActionChains(page).move_to_element_with_offset(svg, int(x), 0).perform()
    return all_of(page, "#tooltip")[0].text


def test_the_page_shows_values_where_one_points(page):
    assert page.title == "Comparison of 3 runs"
    assert tooltip_at(page, "AP, boxes", 0.2).split() == ["epoch", "2", "one", "0.2", "two", "0.4"]
    losses = tooltip_at(page, "sum of all losses (loss)", 0.39)
    assert losses.splitlines() == [
        "epoch 3", "one training 2", "two training 2", "two validation 4",
    ]  # fmt: skip
    assert tooltip_at(page, "images per second in training", 0).split()[-1] == "12.5"
    all_of(page, "h1")[0].click()  # elsewhere
    assert not all_of(page, "#tooltip")[0].is_displayed()


def test_a_click_on_a_run_hides_it_and_another_shows_it(page):
    def drawn():
        svg = chart_of(page, "sum of all losses (loss)")
        curves = svg.find_elements("css selector", ".curve")
        return [curve.get_attribute("stroke") for curve in curves]

    one, two, three = run_colours(3)
    legend = all_of(page, "#legend button")
    assert [entry.text for entry in legend] == ["one", "two", EVIL]
    assert drawn() == [one, one, two, two, three]
    legend[0].click()
    assert drawn() == [two, two, three] and legend[0].get_attribute("aria-pressed") == "false"
    assert tooltip_at(page, "AP, boxes", 0.2).split() == ["epoch", "2", "two", "0.4"]
    for entry in legend[1:]:
        entry.click()
    assert drawn() == [] and "no run is shown" in chart_of(page, "AP, boxes").text
    legend[0].click()
    assert drawn() == [one, one]


def test_the_slider_smooths(page):
    from selenium.webdriver import Keys

    before = len(all_of(page, ".curve"))
    slider = all_of(page, "#smoothing")[0]
    slider.send_keys(*[Keys.ARROW_RIGHT] * 10)
    assert all_of(page, "#smoothing-value")[0].text == "0.5"
    # Of the values 4, 3, 2: (2 + 3 / 2 + 4 / 4) / (1 + 1 / 2 + 1 / 4)
    losses = tooltip_at(page, "sum of all losses (loss)", 0.4)
    assert f"two training {4.5 / 1.75:.4g}" in losses.splitlines()
    steady = len(chart_of(page, "learning rate").find_elements("css selector", ".curve"))
    assert steady == 3
    assert len(all_of(page, ".faint")) == before - steady  # the values themselves
    assert len(all_of(page, ".curve")) == 2 * before - steady
    slider.send_keys(Keys.HOME)
    assert "two training 2" in tooltip_at(page, "sum of all losses (loss)", 0.4).splitlines()


def test_scales_can_be_logarithmic(page):
    """The middle of the first run's losses, 8 to 1/4, is at their geometric mean."""

    def heights():
        circles = chart_of(page, "sum of all losses (loss)").find_elements("tag name", "circle")
        return [float(circle.get_attribute("cy")) for circle in circles[:6]]

    steps = np.diff(heights())
    assert steps == pytest.approx([steps[0]] * 5) and steps[0] > 0
    all_of(page, "#log")[0].click()
    steps = np.diff(heights())
    assert steps == pytest.approx([steps[0] / 2**i for i in range(5)]) and steps[0] > 0
    ticks = chart_of(page, "sum of all losses (loss)").find_elements("css selector", ".tick")
    assert [tick.text for tick in ticks] == ["0", "2", "4", "6", "8"]


def test_the_table_has_best_and_last_numbers(page):
    rows = {}
    for row in all_of(page, "#best tr"):
        rows[row.find_element("tag name", "th").text] = row
    names = [cell.text for cell in rows[""].parent.find_elements("css selector", "#best tr th")]
    assert {"one", "two", EVIL} <= set(names)

    def cells(title):
        return [cell.text for cell in rows[title].find_elements("tag name", "td")]

    assert cells("AP, boxes") == ["0.6000 epoch 6", "0.6000", "0.4500 epoch 1", "0.3500", "", ""]
    assert cells("sum of all losses (loss), validation") == [
        "0.5000 epoch 6", "0.5000", "4.000 epoch 3", "4.000", "", ""
    ]  # fmt: skip
    top = rows["AP, boxes"].find_elements("css selector", ".top")
    assert [cell.text for cell in top] == ["0.6000 epoch 6"]


def test_the_page_tells_what_differs_and_marks_no_best_of_other_data(tmp_path, open_page):
    rows = [flat(row, DETECTION.log) for row in TWO]
    long = "a_name/" * 30 + EVIL
    for data, marked in (("d", 1), ("e", 0)):  # and where no run says its data, below
        runs = [LoggedRun("one", rows, start=made_with(enc_rpe2d="")),
                LoggedRun(long, rows[:2], start=made_with(data, enc_rpe2d=EVIL))]  # fmt: skip
        write_page(runs, tmp_path / f"{data}.html")
        page = open_page(tmp_path / f"{data}.html")
        lines = [row.text.split("\n") for row in all_of(page, "#options tr")]
        assert " ".join(lines[1]) == f"--enc_rpe2d - {EVIL}"
        assert len(lines) == 2 + (data != "d")  # and the validation data
        assert (len(all_of(page, "#best .top")) > 0) == bool(marked)
        assert all_of(page, "#other-data")[0].is_displayed() != bool(marked)
        # All of a long name is there to be read.
        for head in all_of(page, ".scroll th"):
            cut = page.execute_script(
                "return arguments[0].scrollWidth > arguments[0].clientWidth + 1", head
            )
            assert not cut, head.text
        heads = [head.text for head in all_of(page, ".scroll th")]
        assert sum(long == head.replace("\n", "") for head in heads) == 2
    write_page([LoggedRun("one", rows), LoggedRun("two", rows[:2])], tmp_path / "unknown.html")
    assert all_of(open_page(tmp_path / "unknown.html"), "#best .top") == []


def test_labels_of_axes_are_inside_of_the_page(tmp_path, open_page):
    """Rates that are no short decimals, and epochs of six digits."""
    rows = [{"epoch": e, "train_lr": rate} for e, rate in ((0, 2.5e-5), (123_455, 3.3e-6))]
    write_page([LoggedRun("run", rows)], tmp_path / "page.html")
    page = open_page(tmp_path / "page.html")
    svg = chart_of(page, "learning rate")
    frame = page.execute_script("return arguments[0].getBoundingClientRect().toJSON()", svg)
    texts = svg.find_elements("tag name", "text")
    assert len(texts) > 6
    for text in texts:
        box = page.execute_script("return arguments[0].getBoundingClientRect().toJSON()", text)
        assert frame["left"] <= box["left"] and box["right"] <= frame["right"], text.text


def test_the_mean_of_seeds_has_a_band(tmp_path, open_page):
    pairs = [(1, ONE), (2, [{**row, "train_loss": row["train_loss"] + 2} for row in ONE])]
    runs = [
        LoggedRun(f"x/seed_{seed}", [flat(row, DETECTION.log) for row in rows],
                  start=made_with(seed=seed)) for seed, rows in pairs
    ]  # fmt: skip
    write_page(mean_over_seeds(runs), tmp_path / "page.html")
    page = open_page(tmp_path / "page.html")
    assert page.title == "Run x (2 seeds)"
    svg = chart_of(page, "sum of all losses (loss)")
    band, *_ = svg.find_elements("css selector", ".band")
    curve, *_ = svg.find_elements("css selector", ".curve")
    line, edge = (
        [float(y) for y in re.findall(r"[ML]\S+ ([\d.]+)", path.get_attribute("d"))]
        for path in (curve, band)
    )
    lowest, highest = edge[:6], edge[:5:-1]  # smaller numbers are further down
    assert all(low > y > high for low, y, high in zip(lowest, line, highest, strict=True))
    assert tooltip_at(page, "sum of all losses (loss)", 0).splitlines()[1].endswith(" 9")


def test_the_page_needs_nothing_else(page, tmp_path):
    """No address in it but the name of SVG; nothing is loaded, and names are only text."""
    written = (tmp_path / "page & more.html").read_text()
    assert set(re.findall(r"\w+://[^\s\"'<]+", written)) == {"http://www.w3.org/2000/svg"}
    assert page.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert len(all_of(page, "b")) == 0 and len(all_of(page, "script")) == 2


def test_the_page_of_one_epoch(tmp_path, open_page):
    """One value has no range, and a learning rate of 0 no logarithm."""
    rows = [{"epoch": 0, "train_loss": 3.0, "train_lr": 0.0}]
    write_page([LoggedRun("only", rows)], tmp_path / "one.html")
    page = open_page(tmp_path / "one.html")
    assert page.title == "Run only"
    assert tooltip_at(page, "learning rate", 0.5).split() == ["epoch", "1", "only", "0"]
    assert tooltip_at(page, "sum of all losses (loss)", 0).split()[-1] == "3"
    for circle in all_of(page, ".chart svg > circle"):
        assert 0 < float(circle.get_attribute("cy")) < 230
