"""The live figures on the built pages: they answer to keys with Python's numbers, and leave the page whole."""

import gzip
import re
from collections.abc import Iterator
from typing import Any

import pytest
import test_site
import torch
from bs4 import BeautifulSoup
from helpers import ROOT
from test_live import LINEAR, PAIR, RING, rounded
from test_site import DESK, SITE, Tab

from ddpm_nb import (
    CounterNoise,
    GaussianMixture,
    Schedule,
    ddim,
    log_snr_timesteps,
    noised_mixture,
    optimal_noise,
    sample,
    strided,
    timesteps,
)
from ddpm_nb.cifar10 import load_digits
from ddpm_nb.likelihood import gaussian_log_prob
from ddpm_nb.training import load_network

# The site, the browser and the address are those of tests/test_site.py.
site, browser, address = test_site.site, test_site.browser, test_site.address
WEB = ROOT / "book/_web/live"
PAGES = {
    "likelihood": "likelihood",
    "forward": "forward",
    "posterior": "posterior",
    "ring": "algorithms",
    "paths": "fewer_steps",
    "digits": "fewer_steps",
}
every_figure = pytest.mark.parametrize("figure", PAGES)


@pytest.fixture(scope="module")
def tab(browser: Any, address: str) -> Iterator[Tab]:
    kept = Tab(browser, address, reduced_motion="reduce")
    yield kept
    kept.context.close()


def alive(tab: Tab, figure: str, query: str = "") -> Any:
    """Open a figure's page, go there, and return the figure when it is live and has its numbers."""
    page = tab.open(f"book/{PAGES[figure]}.html{query}")
    place = page.locator(f"[data-figure={figure}]")
    place.evaluate("e => e.scrollIntoView()")
    page.wait_for_selector(f"[data-figure={figure}][data-state=live]")
    page.wait_for_selector(f"[data-figure={figure}] .live-numbers td")
    place.evaluate("e => e.scrollIntoView()")
    return place


def shown(place: Any, title: str) -> float:
    """The number beside a title, as it is written."""
    row = place.locator("tr", has_text=title).locator("td").inner_text()
    number = re.search(r"−?\d+(\.\d+)?( · 10−?\d+)?", row)
    assert number, row
    text = number[0].replace("−", "-")
    return float(re.sub(r" · 10(-?\d+)", r"e\1", text))


def press(place: Any, label: str, key: str, times: int) -> None:
    """Move a slider by keys alone."""
    slider = place.get_by_label(label)
    slider.focus()
    for _ in range(times):
        place.page.keyboard.press(key)


def same(found: float, python: Any, digits: int = 4) -> None:
    assert f"{found:.{digits - 1}e}" == f"{float(python):.{digits - 1}e}"


# ---- The numbers are Python's ----


def test_the_divergences_are_python_s(tab: Tab) -> None:
    place = alive(tab, "likelihood")
    press(place, "mean of the bell", "ArrowRight", 7)
    grid = torch.linspace(-16, 16, 64_001, dtype=torch.float64)
    data = GaussianMixture([0.3, 0.7], [[-2.0], [2.0]], [0.5, 0.5])
    log_p, log_q = (
        data.log_prob(grid[:, None]),
        gaussian_log_prob(grid[:, None], torch.tensor(0.35), torch.tensor(1.0)),
    )
    place.page.wait_for_function("location.search.includes('likelihood.mean=0.35')")
    same(shown(place, "KL(data"), torch.trapezoid(log_p.exp() * (log_p - log_q), grid))
    same(shown(place, "KL(bell"), torch.trapezoid(log_q.exp() * (log_q - log_p), grid))


def test_the_schedule_s_numbers_are_python_s(tab: Tab) -> None:
    place = alive(tab, "forward")
    press(place, "how far", "ArrowLeft", 5)
    press(place, "number of steps", "ArrowLeft", 3)
    place.page.wait_for_function("location.search.includes('forward.T=3')")
    short = Schedule.linear(100)
    same(shown(place, "the signal's share"), short.alpha_bar[25])
    same(shown(place, "signal-to-noise"), short.log_snr[25].exp())
    same(shown(place, "at the end"), short.alpha_bar[-1])
    assert "still there" in place.locator(".live-numbers").inner_text()
    place.get_by_label("schedule").select_option("cosine")
    place.page.wait_for_function("location.search.includes('cosine')")
    same(shown(place, "the signal's share"), Schedule.cosine(100).alpha_bar[25])


def test_the_step_back_s_numbers_are_python_s(tab: Tab) -> None:
    place = alive(tab, "posterior")
    press(place, "where the walk is now", "ArrowLeft", 4)
    press(place, "how large the step", "ArrowLeft", 10)
    place.page.wait_for_function("location.search.includes('posterior.beta=-0.15')")
    beta = 10**-0.15
    before = noised_mixture(PAIR, 100, LINEAR)
    grid = torch.linspace(-4, 4, 16_001, dtype=torch.float64)
    log_back = before.log_prob(grid[:, None]) + gaussian_log_prob(
        torch.full_like(grid, 0.02)[:, None],
        (1 - beta) ** 0.5 * grid[:, None],
        torch.tensor(beta),
    )
    log_back = log_back - torch.trapezoid(log_back.exp(), grid).log()
    back = log_back.exp()
    mean = torch.trapezoid(back * grid, grid)
    var = torch.trapezoid(back * (grid - mean) ** 2, grid)
    log_bell = gaussian_log_prob(grid[:, None], mean, var)
    same(shown(place, "mean of"), mean)
    same(
        shown(place, "KL(truth"),
        torch.trapezoid(back * (log_back - log_bell), grid),
        digits=3,
    )


def test_the_marked_point_walks_as_python_s(tab: Tab) -> None:
    place = alive(tab, "ring", "?ring.place=1")
    press(place, "marked start, across", "ArrowRight", 2)
    place.page.wait_for_function("location.search.includes('ring.x=1.3')")
    start = torch.tensor([[1.3, 0.6]], dtype=torch.float64)
    times = timesteps(1000, 50)
    options: Any = {"x_T": start, "generator": CounterNoise(0, (2,))}
    exact = optimal_noise(RING, LINEAR)
    x = sample(exact, (1, 2), LINEAR, strided(), times, **options)
    point = f"({x[0, 0]:#.4g}, {x[0, 1]:#.4g})".replace("-", "−")
    place.page.wait_for_function(
        f"document.querySelector('[data-figure=ring] .live-numbers').innerText.includes('{point}')"
    )


def test_the_marked_walk_ends_as_python_s(tab: Tab) -> None:
    place = alive(tab, "paths", "?paths.eta=0")
    press(place, "start of the marked walk", "ArrowLeft", 3)
    place.page.wait_for_function("location.search.includes('paths.start=0.05')")
    pair = GaussianMixture(PAIR.weights, PAIR.means, [0.1, 0.1])
    exact, times = optimal_noise(pair, LINEAR), timesteps(1000, 50)
    start = torch.tensor([[0.05]], dtype=torch.float64)
    end = sample(exact, (1, 1), LINEAR, ddim(), times, x_T=start)
    back = sample(exact, (1, 1), LINEAR, ddim(), times[::-1], x_T=end)
    text = f"{float(end):#.4g}".replace("-", "−")
    place.page.wait_for_function(
        f"document.querySelector('[data-figure=paths] td').innerText === '{text}'"
    )
    same(shown(place, "back up"), back)


def test_the_digit_is_python_s(tab: Tab) -> None:
    """The finished digit's distance to the nearest training picture, from a network that has the page's weights."""
    place = alive(tab, "digits", "?digits.seed=5&digits.place=1")
    net, schedule, _ = load_network(ROOT / "book/weights/digits.safetensors")
    start = CounterNoise(5, (1, 8, 8))(torch.arange(1), 500)
    x = sample(
        rounded(net),
        start.shape,
        schedule,
        ddim(),
        log_snr_timesteps(schedule, 20),
        x_T=start,
        clip=True,
    )
    distance = torch.cdist(x.flatten(1), load_digits().images.flatten(1))
    assert shown(place, "nearest training picture") == pytest.approx(
        float(distance.min()), rel=1e-3
    )
    assert int(shown(place, "which shows")) == int(
        load_digits().labels[distance.argmin()]
    )


# ---- The page stays whole ----


@every_figure
def test_a_figure_comes_to_life_from_a_file(figure: str, browser: Any) -> None:
    tab = Tab(browser, SITE.as_uri() + "/")
    place = alive(tab, figure)
    assert tab.complaints == []
    assert tab.foreign == []
    body = place.locator(".live-body")
    assert body.is_visible()
    # A question before it; what is to be seen stands folded after it.
    assert place.locator("> p").first.inner_text().startswith("Guess first.")
    answer = place.locator("> details:last-child")
    assert not answer.locator("p").is_visible()
    answer.locator("summary").click()
    assert answer.locator("p").is_visible()
    tab.context.close()


@every_figure
def test_without_scripts_the_picture_stands_alone(
    figure: str, browser: Any, address: str
) -> None:
    tab = Tab(browser, address, java_script_enabled=False)
    page = tab.open(f"book/{PAGES[figure]}.html")
    place = page.locator(f"[data-figure={figure}]")
    assert place.bounding_box() is None  # it takes no room
    html = BeautifulSoup(
        (SITE / f"book/{PAGES[figure]}.html").read_text("utf-8"), "html.parser"
    )
    before = html.select_one(f"[data-figure={figure}]").find_previous("img")  # type: ignore[union-attr]
    assert page.locator(f'img[src="{before["src"]}"]').first.is_visible()  # type: ignore[index]
    tab.context.close()


@every_figure
def test_a_missing_script_leaves_the_picture(
    figure: str, browser: Any, address: str
) -> None:
    tab = Tab(browser, address)
    tab.page.route(f"**/fig-{figure}.js", lambda route: route.abort())
    page = tab.open(f"book/{PAGES[figure]}.html")
    place = page.locator(f"[data-figure={figure}]")
    place.evaluate("e => e.scrollIntoView()")
    page.wait_for_selector(
        f"[data-figure={figure}][data-state=error]", state="attached"
    )
    assert place.bounding_box() is None
    tab.context.close()


PICTURE = """e => [...e.querySelectorAll("canvas")].map(c => c.toDataURL()).join()
  + [...e.querySelectorAll("svg path")].map(p => p.getAttribute("d")).join()"""


@every_figure
def test_a_seed_has_one_picture_and_nothing_moves_by_itself(
    figure: str, tab: Tab
) -> None:
    pictures = []
    for _ in range(2):
        place = alive(tab, figure)
        place.page.wait_for_timeout(300)
        pictures += [place.evaluate(PICTURE)]
        place.page.wait_for_timeout(400)
        pictures += [place.evaluate(PICTURE)]
    assert len(set(pictures)) == 1


@pytest.mark.parametrize("figure, end", [("ring", ""), ("digits", "?digits.place=1")])
def test_play_goes_to_the_end_at_once_where_motion_is_unwelcome(
    figure: str, end: str, tab: Tab
) -> None:
    place = alive(tab, figure)
    press(place, "step of the walk", "Home", 1)
    place.page.wait_for_function(f"location.search.endsWith('{figure}.place=0')")
    early = place.evaluate(PICTURE)
    tab.page.evaluate(
        """() => { window.visited = []; const replace = history.replaceState; history.replaceState = (...how) => {
        window.visited.push(String(how[2])); replace.apply(history, how); }; }"""
    )
    place.get_by_role("button", name="Play").click()
    place.page.wait_for_function(f"location.search === '{end}'")
    assert place.evaluate(PICTURE) != early
    visited = tab.page.evaluate("window.visited")
    assert visited and all(url.endswith(f".html{end}") for url in visited)


@every_figure
def test_what_is_set_is_in_the_address_and_reset_takes_it_out(
    figure: str, tab: Tab
) -> None:
    place = alive(tab, figure)
    slider = place.get_by_role("slider").nth(1)
    slider.focus()
    tab.page.keyboard.press("ArrowLeft")
    tab.page.wait_for_function(f"location.search.includes('{figure}.')")
    value, query = slider.input_value(), tab.page.evaluate("location.search")
    place.get_by_role("button", name="Reset").click()
    tab.page.wait_for_function("location.search === ''")
    assert slider.input_value() != value
    place = alive(tab, figure, query)
    assert place.get_by_role("slider").nth(1).input_value() == value
    spoken = place.get_by_role("slider").nth(1).get_attribute("aria-valuetext")
    assert spoken
    assert place.locator("output").nth(1).inner_text().replace("\n", "") == spoken


@every_figure
def test_nonsense_in_the_address_is_no_matter(figure: str, tab: Tab) -> None:
    names = {
        "likelihood": "mean",
        "forward": "T",
        "posterior": "data",
        "ring": "variance",
        "paths": "seed",
        "digits": "model",
    }
    query = f"?{figure}.{names[figure]}=%3Cb%3E&{figure}.seed=-7e99&other=1"
    seeds = alive(tab, figure, query).get_by_label("seed")
    assert [seed.input_value() for seed in seeds.all()] in ([], ["0"])
    assert tab.complaints == []


@every_figure
def test_the_room_that_is_kept_is_the_room_that_is_needed(
    figure: str, tab: Tab
) -> None:
    for width in (1280, 390):
        tab.page.set_viewport_size({"width": width, "height": 900})
        body = alive(tab, figure).locator(".live-body")
        kept = body.evaluate("e => parseFloat(getComputedStyle(e).minHeight)")
        needed = body.evaluate(
            "e => { e.style.minHeight = 0; return e.getBoundingClientRect().height; }"
        )
        assert kept - 80 < needed <= kept + 4
    tab.page.set_viewport_size(DESK)


def test_the_pictures_can_be_dragged(tab: Tab) -> None:
    place = alive(tab, "likelihood")
    box = place.locator("svg.drag").bounding_box()
    mouse = tab.page.mouse
    mouse.move(box["x"] + box["width"] / 2, box["y"] + 40)
    mouse.down()
    mouse.move(box["x"] + box["width"] / 2 + 110, box["y"] + 40)
    mouse.up()
    tab.page.wait_for_function("location.search.includes('likelihood.mean')")
    moved = float(place.get_by_label("mean of the bell").input_value())
    assert moved == pytest.approx(110 / box["width"] * 400 / 388 * 11.2, abs=0.03)

    place = alive(tab, "ring")
    box = place.locator("canvas").bounding_box()
    scale = box["width"] / 6.4
    mouse.move(box["x"] + (3.2 + 1.2) * scale, box["y"] + (3.2 - 0.6) * scale)
    mouse.down()
    mouse.move(box["x"] + (3.2 - 1) * scale, box["y"] + (3.2 - 2) * scale, steps=4)
    mouse.up()
    tab.page.wait_for_function("location.search.includes('ring.x=-1&ring.y=2')")


def test_a_sheet_of_64_digits_is_drawn(tab: Tab) -> None:
    place = alive(tab, "digits", "?digits.steps=0&digits.method=multistep")
    place.get_by_role("button", name="Draw 64").click()
    tab.page.wait_for_function(
        "document.querySelector('.live-sheets p')?.textContent.includes('64 pictures, 5 network')"
    )
    sheet = place.locator(".live-sheet canvas")
    assert sheet.count() == 64
    assert len({sheet.nth(i).evaluate("c => c.toDataURL()") for i in range(64)}) == 64


def test_scripts_are_light() -> None:
    def packed(names: list[str]) -> int:
        return sum(
            len(gzip.compress((WEB / name).read_bytes(), mtime=0)) for name in names
        )

    assert packed(["core.js"]) <= 12_000
    shared = ["core.js", "math.js", "ui.js", "nn.js"]
    for page in set(PAGES.values()):
        names = [f"fig-{figure}.js" for figure, at in PAGES.items() if at == page]
        text = "".join((WEB / name).read_text("utf-8") for name in names)
        names += [f"{name}.js" for name in set(re.findall(r'load\("([\w-]+)"\)', text))]
        assert packed(shared + names) <= 300_000, (page, names)
