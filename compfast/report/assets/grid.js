// Views of shares: columns cut by verdict over one axis, a map over two, panels for a third.
"use strict";
(function (page) {
  const {state, data} = page;
  const MOST_SIGNS = 120; // cells up to which each carries its verdict's sign; else some columns
  const MOST_TEXTS = 48; // cells up to which each says its verdict in words
  const CIVIDIS = [[0, "#00224e"], [0.125, "#123570"], [0.25, "#3b496c"], [0.375, "#575d6d"],
    [0.5, "#707173"], [0.625, "#8a8678"], [0.75, "#a59c74"], [0.875, "#c3b369"], [1, "#fee838"]];
  const FAINT = 0.28; // how much of its colour a verdict keeps where it barely leads

  const shownVerdict = () => data.verdicts.findIndex((v) => v.name === state.show);
  const cellsOf = (x, y) => y.labels.flatMap((_, iy) => x.labels.map((__, ix) => [ix, iy]));

  function panelAxes(panels, x, y, own) {
    const layout = {};
    const wide = page.widthOf("map") / panels[0].columns;
    for (const panel of panels) {
      layout[panel.x] = page.axisStyle({
        domain: panel.domainX, anchor: panel.yref, range: [-0.5, x.labels.length - 0.5],
        showgrid: false, ...page.levelTicks(x, wide), showticklabels: panel.last,
        title: panel.last ? page.plain(x.name) : "",
      });
      layout[panel.y] = page.axisStyle({
        domain: panel.domainY, anchor: panel.xref, showticklabels: panel.first,
        ...own, title: panel.first ? own.title : "",
      });
    }
    return layout;
  }

  const withTitles = (z, panels) => ({
    annotations: page.panelTitles(z, panels),
    margin: {l: 64, r: 14, t: z === page.whole ? 12 : 28, b: 46},
  });

  // One axis: every column is all members of a level.
  page.bars = () => {
    const [x, y, z] = page.axesShown(), panels = page.panels(z), tally = page.tally(x, y, z);
    const one = shownVerdict();
    const traces = panels.flatMap((panel) => (one < 0
      ? data.verdicts.map((verdict, v) => bar(tally, x, panel, verdict, v))
      : [share(tally, x, panel, data.verdicts[one], one)]));
    const axes = panelAxes(panels, x, y, {
      range: [0, 1.005], tickformat: ".0%", title: one < 0 ? "members" : `share of ${state.show}`,
    });
    return {
      traces, panels, hatched: false,
      layout: page.layout({...axes, ...withTitles(z, panels), barmode: "stack", bargap: 0}),
      said: one < 0 ? `A column is all members of one ${x.name}, cut by verdict.`
        : `Share of ${state.show} members with its 95 % Wilson interval.`,
      ground: page.cellGround(tally, panels, () => [0, 1]),
    };
  };

  function bar(tally, x, panel, verdict, v) {
    const cells = x.labels.map((_, ix) => [ix, 0, panel.iz]);
    const counts = cells.map((cell) => tally.at(...cell));
    return {
      type: "bar", name: page.plain(verdict.name), xaxis: panel.xref, yaxis: panel.yref,
      x: cells.map(([ix]) => ix), y: counts.map((own) => own[v] / (page.total(own) || 1)),
      customdata: cells, text: cells.map((cell) => page.cellText(tally, cell)),
      textposition: "none", hovertemplate: "%{text}<extra>%{fullData.name}</extra>",
      marker: {color: page.paint(verdict), pattern: page.pattern(verdict),
               line: {width: x.labels.length > 60 ? 0 : 0.6, color: page.variable("--ground")}},
    };
  }

  function share(tally, x, panel, verdict, v) {
    const made = bar(tally, x, panel, verdict, v);
    const bounds = made.customdata.map((cell) => {
      const own = tally.at(...cell);
      return page.wilson(own[v], page.total(own));
    });
    made.error_y = {
      type: "data", symmetric: false, thickness: 1.2, width: 3, color: page.variable("--ink"),
      array: bounds.map(([, high], i) => high - made.y[i]),
      arrayminus: bounds.map(([low], i) => made.y[i] - low),
    };
    return made;
  }

  // Two axes: a cell is its leading verdict, or the share of one.
  page.grid = () => {
    const [x, y, z] = page.axesShown(), panels = page.panels(z), tally = page.tally(x, y, z);
    const one = shownVerdict();
    const cells = x.labels.length * y.labels.length * panels.length;
    const words = cells <= MOST_TEXTS;
    const hatches = panels.map((panel) => hatching(tally, x, y, panel));
    const traces = panels.flatMap((panel, k) => [
      one < 0 ? leading(tally, x, y, panel, words) : shares(tally, x, y, panel, one, !k),
      ...hatches[k],
      ...(one < 0 && !words ? [signs(tally, x, y, panel, cells)] : []),
    ]);
    const axes = panelAxes(panels, x, y, {
      range: [-0.5, y.labels.length - 0.5], showgrid: false, ...page.levelTicks(y, 64 * 9),
      title: page.plain(y.name),
    });
    const layout = page.layout({...axes, ...withTitles(z, panels)});
    if (one >= 0) layout.margin.r = 70;
    return {
      traces, panels, layout, hatched: hatches.some((own) => own.length),
      said: one < 0
        ? "A cell has the colour and the sign of its most frequent verdict, paler where fewer agree."
        : `Share of ${state.show} members.`,
      ground: page.cellGround(tally, panels, ([, iy]) => [iy - 0.5, iy + 0.5]),
    };
  };

  function rowsOf(x, y, value) {
    return y.labels.map((_, iy) => x.labels.map((__, ix) => value(ix, iy)));
  }

  function heat(tally, x, y, panel, own) {
    return {
      type: "heatmap", xaxis: panel.xref, yaxis: panel.yref, xgap: 1, ygap: 1,
      x: x.labels.map((_, i) => i), y: y.labels.map((_, i) => i),
      customdata: rowsOf(x, y, (ix, iy) => [ix, iy, panel.iz]),
      hovertext: rowsOf(x, y, (ix, iy) => page.cellText(tally, [ix, iy, panel.iz])),
      hovertemplate: "%{hovertext}<extra></extra>", ...own,
    };
  }

  // The most frequent verdict of a cell and its share; null where nobody is.
  function best(tally, cell) {
    const counts = Array.from(tally.at(...cell)), n = page.total(counts);
    const most = Math.max(...counts);
    return n ? {v: counts.indexOf(most), share: most / n} : null;
  }

  function leading(tally, x, y, panel, words) {
    const size = data.verdicts.length;
    const scale = data.verdicts.flatMap((verdict, v) => [
      [v / size, page.mixed(page.paint(verdict), FAINT)],
      [(v + 0.999) / size, page.mixed(page.paint(verdict), 1)],
    ]);
    scale.push([1, scale[scale.length - 1][1]]);
    return heat(tally, x, y, panel, {
      z: rowsOf(x, y, (ix, iy) => {
        const found = best(tally, [ix, iy, panel.iz]);
        return found ? found.v + 0.99 * found.share : null;
      }),
      ...(words ? {text: rowsOf(x, y, (ix, iy) => told(tally, [ix, iy, panel.iz])),
                   texttemplate: "%{text}", textfont: {size: 12}} : {}),
      colorscale: scale, zmin: 0, zmax: size, showscale: false,
    });
  }

  function told(tally, cell) {
    const found = best(tally, cell);
    if (!found) return "";
    return `${page.plain(data.verdicts[found.v].name)}<br>${page.percent(found.share)}`;
  }

  // The sign of a cell's verdict, so that its colour is not all that tells it.
  function signs(tally, x, y, panel, cells) {
    const every = Math.ceil(cells / MOST_SIGNS);
    const some = cellsOf(x, y).filter(([ix]) => ix % every === Math.floor(every / 2));
    const found = some.map(([ix, iy]) => [ix, iy, best(tally, [ix, iy, panel.iz])])
      .filter(([, , own]) => own && !data.verdicts[own.v].underfit);
    const labels = found.map(([, , own]) => data.verdicts[own.v]);
    return {
      type: "scatter", mode: "markers", xaxis: panel.xref, yaxis: panel.yref, hoverinfo: "skip",
      x: found.map(([ix]) => ix), y: found.map(([, iy]) => iy),
      marker: {symbol: labels.map((v) => v.symbol), size: 5,
               color: found.map(([, , own], i) => page.clear(
                 own.share < 0.6 ? page.variable("--ink") : page.over(page.paint(labels[i])), 0.75))},
    };
  }

  function shares(tally, x, y, panel, v, withBar) {
    const value = (ix, iy) => {
      const counts = tally.at(ix, iy, panel.iz), n = page.total(counts);
      return n ? counts[v] / n : null;
    };
    return heat(tally, x, y, panel, {
      z: rowsOf(x, y, value), colorscale: CIVIDIS, zmin: 0, zmax: 1, showscale: withBar,
      colorbar: {tickformat: ".0%", thickness: 12, outlinewidth: 0, tickvals: [0, 0.5, 1]},
    });
  }

  // Hatched rectangles over the cells that are mostly underfit: one path for all of them.
  function hatching(tally, x, y, panel) {
    const v = data.verdicts.findIndex((verdict) => verdict.underfit);
    if (v < 0) return [];
    const cells = cellsOf(x, y).filter(([ix, iy]) => {
      const counts = tally.at(ix, iy, panel.iz), n = page.total(counts);
      return n && counts[v] >= n / 2;
    });
    if (!cells.length) return [];
    const outline = (side) => cells.flatMap((cell) => [...side(cell), null]);
    return [{
      type: "scatter", mode: "lines", xaxis: panel.xref, yaxis: panel.yref, hoverinfo: "skip",
      x: outline(([ix]) => [ix - 0.5, ix - 0.5, ix + 0.5, ix + 0.5, ix - 0.5]),
      y: outline(([, iy]) => [iy - 0.5, iy + 0.5, iy + 0.5, iy - 0.5, iy - 0.5]),
      line: {width: 0}, fill: "toself", fillcolor: "rgba(0,0,0,0)",
      fillpattern: {shape: "/", size: 7, solidity: 0.22, fillmode: "replace",
                    fgcolor: page.clear(page.variable("--ink"), 0.6), bgcolor: "rgba(0,0,0,0)"},
    }];
  }
})(window.compfast);
