// Colours of the page, light and dark, and what every chart shares.
"use strict";
(function (page) {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const TICK = 64; // pixels that a label of a tick takes at least
  // What stands for a verdict in a cell or on a chip, by Plotly's name of its dots.
  const GLYPHS = {
    circle: "●", "triangle-up": "▲", square: "■", diamond: "◆", pentagon: "⬟", hexagon: "⬢",
    "x-thin-open": "/", "triangle-down": "▼", cross: "+", star: "✕", "circle-open": "○",
  };

  // Paper is light; "printing" is set before the browser lays the page out for it.
  page.isDark = () => dark.matches && !root.classList.contains("printing");
  // The class by which the library of the table knows a dark page.
  page.markTheme = () => root.classList.toggle("dark", page.isDark());
  page.markTheme();
  page.onTheme = (act) => dark.addEventListener("change", act);
  page.paint = (label) => (page.isDark() ? label.dark : label.light);
  // A thin line in the grey of an underfit cell would not be seen.
  page.linePaint = (label) => (label.underfit ? page.isDark() ? "#a6b0bb" : "#6e7781"
    : page.paint(label));
  page.glyph = (label) => GLYPHS[label.symbol] || "○";
  page.variable = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  const parts = (paint) => [1, 3, 5].map((i) => parseInt(paint.slice(i, i + 2), 16));

  // `share` of a colour, the rest the page's ground.
  page.mixed = (paint, share) => {
    const own = parts(paint), ground = parts(page.variable("--ground"));
    return `rgb(${own.map((c, i) => Math.round(c * share + ground[i] * (1 - share))).join(",")})`;
  };

  page.clear = (paint, alpha) => `rgba(${parts(paint).join(",")},${alpha})`;

  // Black or white, whichever is read on this colour.
  page.over = (paint) => {
    const [r, g, b] = parts(paint);
    return 0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#000000" : "#ffffff";
  };

  page.pattern = (label, size = 8) => ({
    shape: label.pattern, size, solidity: 0.14, fillmode: "overlay",
    fgcolor: page.clear(page.over(page.paint(label)), 0.5),
  });

  page.axisStyle = (own = {}) => ({
    color: page.variable("--soft"), gridcolor: page.clear(page.variable("--line"), 0.7),
    zeroline: false, linecolor: page.variable("--line"), ticks: "", fixedrange: true,
    exponentformat: "power", ticklabeloverflow: "allow", // else every label is measured
    ...own, title: {text: own.title || "", standoff: 8},
  });

  // Ticks of an axis of levels, as many labels as there is room for.
  page.levelTicks = (axis, pixels) => {
    const longest = Math.max(...axis.labels.map((label) => label.length));
    const most = Math.max(2, Math.floor(pixels / Math.max(TICK, 7 * longest + 16)));
    const every = Math.ceil(axis.labels.length / most);
    const at = axis.labels.map((_, i) => i).filter((i) => i % every === 0);
    return {tickmode: "array", tickangle: 0, tickvals: at, ticktext: at.map((i) => page.plain(axis.labels[i]))};
  };

  page.layout = (own = {}) => ({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: false,
    font: {family: getComputedStyle(document.body).fontFamily, size: 12,
           color: page.variable("--ink")},
    margin: {l: 56, r: 14, t: 14, b: 46}, showlegend: false, hovermode: "closest",
    hoverlabel: {bgcolor: page.variable("--raised"), bordercolor: page.variable("--line"),
                 font: {color: page.variable("--ink"), size: 12}, align: "left"},
    legend: {orientation: "h", x: 0, y: 1.02, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)"},
    ...own,
  });

  // At the size that the element has now: paper and small windows are laid out at once.
  page.draw = (id, traces, layout) => {
    const at = document.getElementById(id);
    const size = {width: at.clientWidth, height: at.clientHeight};
    return Plotly.react(at, traces, {...layout, ...size}, {displayModeBar: false});
  };

  page.widthOf = (id) => document.getElementById(id).clientWidth;

  page.swatch = (label, small = false) => {
    const paint = page.paint(label);
    const made = page.element("span", {className: small ? "swatch small" : "swatch",
                                       textContent: page.glyph(label)});
    made.setAttribute("aria-hidden", "true");
    Object.assign(made.style, {background: paint, color: page.over(paint)});
    return made;
  };
})(window.compfast);
