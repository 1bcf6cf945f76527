"""Chart libraries for report/index.html, side by side in headless Chromium (docs/page.md).

    npm install plotly.js-cartesian-dist-min plotly.js-basic-dist-min vega vega-lite \\
        @bokeh/bokehjs
    python -m benchmarks.page_charts node_modules

A page a library: a dot a member for 5,000 members, coloured by verdict, and then all of them drawn
anew with other values, as a changed selection does. Medians of five loads; a load begins with the
navigation and ends two frames after the library said that it had drawn.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

_CHROMIUM = "/usr/bin/chromium"
_FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
_MEMBERS = 5000
_LOADS = 5

_DATA = f"""
const M = {_MEMBERS}, x = [], y = [], v = [];
for (let i = 0; i < M; i++) {{ x.push(i / M); y.push((i * 7919 % M) / M); v.push(i % 5); }}
const paint = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#000000"];
const framed = f => requestAnimationFrame(() => requestAnimationFrame(f));
const timed = async act => {{
  const t = performance.now();
  await act();
  await new Promise(framed);
  return performance.now() - t;
}};
"""

_PLOTLY = """
const at = document.getElementById("at");
const traces = s => paint.map((c, k) => ({type: "scatter", mode: "markers", marker: {color: c},
  x: x.filter((_, i) => v[i] === k), y: y.filter((_, i) => v[i] === k).map(q => q * s)}));
const layout = {width: 900, height: 400};
timed(() => Plotly.newPlot(at, traces(1), layout))
  .then(() => { window.loaded = performance.now(); });
window.again = () => timed(() => Plotly.react(at, traces(0.5), layout));
"""

_VEGA = """
const spec = s => ({data: {values: x.map((q, i) => ({x: q, y: y[i] * s, v: v[i]}))},
  width: 900, height: 400, mark: "point", encoding: {x: {field: "x", type: "quantitative"},
  y: {field: "y", type: "quantitative"}, color: {field: "v", type: "nominal"}}});
const draw = s => new vega.View(vega.parse(vegaLite.compile(spec(s)).spec),
  {renderer: "svg", container: "#at", hover: true}).runAsync();
timed(() => draw(1)).then(() => { window.loaded = performance.now(); });
window.again = () => timed(() => draw(0.5));
"""

_BOKEH = """
const source = new Bokeh.ColumnDataSource({data: {x: x, y: y, c: v.map(k => paint[k])}});
const plot = new Bokeh.Plotting.Figure({width: 900, height: 400});
plot.scatter({field: "x"}, {field: "y"}, {source, color: {field: "c"}});
timed(() => Bokeh.Plotting.show(plot, "#at")).then(() => { window.loaded = performance.now(); });
window.again = () => timed(async () => {
  source.data = {x: x, y: y.map(q => q * 0.5), c: source.data.c};
});
"""

_LIBRARIES: dict[str, tuple[list[str], str]] = {
    "Plotly, cartesian": (["plotly.js-cartesian-dist-min/plotly-cartesian.min.js"], _PLOTLY),
    "Plotly, basic": (["plotly.js-basic-dist-min/plotly-basic.min.js"], _PLOTLY),
    "Vega-Lite (Altair)": (["vega/build/vega.min.js", "vega-lite/build/vega-lite.min.js"], _VEGA),
    "Bokeh": (
        ["@bokeh/bokehjs/build/js/bokeh.min.js", "@bokeh/bokehjs/build/js/bokeh-api.min.js"],
        _BOKEH,
    ),
}


def main(modules: Path) -> None:
    """Print a row a library: version, bytes, milliseconds to open and to draw anew, elements."""
    print("library, version, MB, open ms, redraw ms, elements that take the focus")
    with sync_playwright() as play, tempfile.TemporaryDirectory() as folder:
        browser = play.chromium.launch(executable_path=_CHROMIUM, args=_FLAGS)
        for name, (files, code) in _LIBRARIES.items():
            scripts = [(modules / file).read_text() for file in files]
            page = Path(folder) / "page.html"
            body = "".join(f"<script>{text}</script>" for text in [*scripts, _DATA, code])
            page.write_text(f'<!doctype html><meta charset="utf-8"><div id="at"></div>{body}')
            opened, again, focusable = zip(
                *(_load(browser, page) for _ in range(_LOADS)), strict=True
            )
            package = files[0].split("/")
            root = modules.joinpath(*package[: 2 if package[0].startswith("@") else 1])
            version = json.loads((root / "package.json").read_text())["version"]
            size = sum(len(text.encode()) for text in scripts) / 1e6
            print(
                f"{name}, {version}, {size:.2f}, {statistics.median(opened):.0f},"
                f" {statistics.median(again):.0f}, {focusable[0]}"
            )
        browser.close()


def _load(browser: Browser, page: Path) -> tuple[float, float, int]:
    tab = browser.new_page()
    tab.goto(page.as_uri())
    tab.wait_for_function("window.loaded", timeout=60_000)
    opened = float(tab.evaluate("window.loaded"))
    again = float(tab.evaluate("window.again()"))
    focusable = int(tab.evaluate("document.querySelectorAll('#at [tabindex], #at button').length"))
    tab.close()
    return opened, again, focusable


if __name__ == "__main__":
    main(Path(sys.argv[1]))
