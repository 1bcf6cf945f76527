// The map: which view is drawn, the words under it, and what choosing a cell means.
"use strict";
(function (page) {
  const {state, data} = page;
  const MOST_PANELS = 8, MOST_COLUMNS = 4;

  // Panels of a third axis: which levels, and where each one's axes lie.
  page.panels = (z) => {
    const levels = page.someOf(z.labels.map((_, i) => i), MOST_PANELS);
    const columns = levels.length <= MOST_COLUMNS ? levels.length
      : Math.ceil(levels.length / Math.ceil(levels.length / MOST_COLUMNS));
    const rows = Math.ceil(levels.length / columns);
    const gapX = 0.03, gapY = rows > 1 ? 0.16 / rows + 0.04 : 0;
    const width = (1 - gapX * (columns - 1)) / columns;
    const height = (1 - gapY * (rows - 1)) / rows;
    return levels.map((iz, k) => {
      const c = k % columns, r = Math.floor(k / columns), tail = k ? k + 1 : "";
      const left = c * (width + gapX), top = 1 - r * (height + gapY);
      return {
        iz, x: `xaxis${tail}`, y: `yaxis${tail}`, xref: `x${tail}`, yref: `y${tail}`,
        domainX: [left, left + width], domainY: [Math.max(0, top - height), Math.min(1, top)],
        first: c === 0, last: k + columns >= levels.length, columns, rows,
      };
    });
  };

  page.panelTitles = (z, panels) => (z === page.whole ? [] : panels.map((panel) => ({
    text: `<b>${page.plain(z.name)} ${page.plain(z.labels[panel.iz])}</b>`, showarrow: false,
    xref: "paper", yref: "paper", x: panel.domainX[0], y: panel.domainY[1],
    xanchor: "left", yanchor: "bottom", font: {size: 12},
  })));

  // Lines about one cell: its levels, how many, every verdict with its interval.
  page.cellLines = (tally, cell) => {
    const axes = page.axesShown();
    const counts = tally.at(...cell), n = page.total(counts);
    const where = axes.map((axis, k) => [axis, cell[k]]).filter(([axis]) => axis !== page.whole)
      .map(([axis, level]) => `${axis.name} ${axis.labels[level]}`).join(", ");
    const verdicts = data.verdicts.map((v, k) => [v, counts[k]]).filter(([, k]) => k)
      .map(([v, k]) => `${v.name} ${page.shareText(k, n)}`);
    return [`${where || "all members"}: ${n} member${n === 1 ? "" : "s"}`, ...verdicts];
  };

  page.cellText = (tally, cell) => page.cellLines(tally, cell).map(page.plain)
    .map((line, i) => (i ? line : `<b>${line}</b>`)).join("<br>");

  // What the keyboard moves over where the map has cells.
  page.cellGround = (tally, panels, spanY) => {
    const [x, y] = page.axesShown();
    const panelOf = (cell) => panels.find((panel) => panel.iz === cell[2]);
    const within = (value, size) => Math.min(Math.max(value, 0), size - 1);
    return {
      where() {
        const level = page.picked().level, axes = page.axesShown();
        const {kind, members} = page.picked();
        if (kind === "member") return axes.map((axis) => axis.level[members[0]]);
        if (kind !== "cell") return null;
        if (axes.some((axis) => axis !== page.whole && !(axis.path in level))) return null;
        return axes.map((axis) => level[axis.path] || 0);
      },
      move(cell, dx, dy) {
        if (!cell) return [0, 0, panels[0].iz];
        const [ix, iy, iz] = cell, next = ix + dx;
        const k = panels.findIndex((panel) => panel.iz === iz);
        if (k < 0) return [ix, iy, panels[0].iz]; // a member's, whose panel is not among them
        if (next < 0 && k > 0) return [x.labels.length - 1, iy, panels[k - 1].iz];
        if (next >= x.labels.length && k + 1 < panels.length) return [0, iy, panels[k + 1].iz];
        return [within(next, x.labels.length), within(iy + dy, y.labels.length), iz];
      },
      rect(cell) {
        const panel = panelOf(cell);
        return panel && page.pixels(panel, [cell[0] - 0.5, cell[0] + 0.5], spanY(cell));
      },
      text: (cell) => page.cellLines(tally, cell).join("; "),
      pick: page.cellPick,
    };
  };

  function pooledText() {
    const shown = new Set(page.axesShown());
    const pooled = data.axes.filter((axis) => !shown.has(axis));
    const names = pooled.map((axis) => {
      if (axis.binned) return `${axis.name} (drawn at random)`;
      const ends = [axis.labels[0], axis.labels[axis.labels.length - 1]];
      return axis.labels.length > 4 ? `${axis.name} (${axis.labels.length}: ${ends.join(" to ")})`
        : `${axis.name} (${axis.labels.join(", ")})`;
    });
    return names.length ? `Pooled: ${names.join("; ")}.` : "Nothing is pooled.";
  }

  function binnedText() {
    const binned = page.axesShown().filter((axis) => axis.binned)
      .map((axis) => `${axis.name} was drawn at random and is cut into bins of equal `
        + `${axis.log ? "ratio" : "width"}`);
    return binned.length ? `${binned.join("; ")}.` : "";
  }

  function panelsText(panels) {
    const z = page.axesShown()[2];
    return panels.length && panels.length < z.labels.length
      ? `Panels show ${panels.length} of ${z.labels.length} levels of ${z.name}.` : "";
  }

  page.drawMap = () => {
    const view = state.view === "dots" ? page.dots : state.y ? page.grid : page.bars;
    const drawn = view();
    const hatched = "Hatched: mostly underfit.";
    const words = [drawn.said, drawn.hatched ? hatched : "",
                   state.view === "dots" ? "" : pooledText(),
                   state.view === "dots" ? "" : binnedText(), panelsText(drawn.panels)];
    document.getElementById("map-said").textContent = words.filter(Boolean).join(" ");
    page.ground = drawn.ground;
    page.forgetSpot();
    const chart = document.getElementById("map");
    const rows = drawn.panels.length ? drawn.panels[0].rows : 1;
    const each = document.documentElement.classList.contains("printing") ? 125 : 190;
    chart.style.height = rows > 1 ? `${Math.min((each + 10) * rows + 60, 720)}px` : "";
    page.draw("map", drawn.traces, drawn.layout);
    listen(chart);
    page.markPick();
  };

  function listen(chart) {
    if (chart.dataset.listens) return;
    chart.dataset.listens = "yes";
    const spotOf = (event) => event.points[0].customdata;
    chart.on("plotly_click", (event) => spotOf(event) && page.choose(page.ground.pick(spotOf(event))));
    chart.on("plotly_hover", (event) => spotOf(event) && page.readOut(spotOf(event)));
    chart.on("plotly_afterplot", () => page.ground && page.markPick());
  }
})(window.compfast);
