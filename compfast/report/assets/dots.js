// A dot a member at what was drawn for it, where the sweep was a sample.
"use strict";
(function (page) {
  const {state, data} = page;
  const MOST_DOTS = 1500;

  // What a dot's height may be: another number that was drawn, or a score.
  page.heights = () => [
    ...data.axes.filter((axis) => axis.drawn && axis.path !== state.x && axis.path !== "seed")
      .map((axis) => ({name: axis.name, key: axis.path, values: axis.drawn, log: axis.log})),
    ...data.scores.map((score) => ({name: score.name, key: `score ${score.name}`,
                                    values: score.values, log: false})),
  ];

  const numbersOf = (axis) => axis.drawn || axis.level;

  page.dots = () => {
    const x = page.axisOf(state.x), across = numbersOf(x);
    const heights = page.heights();
    const up = heights.find((own) => own.key === state.y) || heights[0]
      || {name: "", values: across, log: false};
    const there = page.everybody.filter((i) => Number.isFinite(up.values[i]));
    const shown = page.someOf(there, MOST_DOTS);
    const panel = {iz: 0, x: "xaxis", y: "yaxis", rows: 1};
    const at = (i) => [across[i], up.values[i]];
    return {
      traces: data.verdicts.map((verdict, v) => dots(verdict, shown.filter(
        (i) => data.verdict[i] === v && (!state.show || state.show === verdict.name)), at)),
      layout: page.layout({
        xaxis: page.axisStyle({title: page.plain(x.name), type: x.drawn && x.log ? "log" : "linear",
                               ...(x.drawn ? {} : page.levelTicks(x, page.widthOf("map")))}),
        yaxis: page.axisStyle({title: page.plain(up.name), type: up.log ? "log" : "linear"}),
      }),
      panels: [], hatched: false, said: words(x, up, there, shown),
      ground: ground(panel, shown, at, x.drawn && x.log, up.log),
    };
  };

  function dots(verdict, places, at) {
    return {
      type: "scatter", mode: "markers", name: page.plain(verdict.name),
      x: places.map((i) => at(i)[0]), y: places.map((i) => at(i)[1]),
      customdata: places.map((i) => [i]),
      text: places.map((i) => page.plain(dotText(i))),
      hovertemplate: "%{text}<extra></extra>",
      marker: {color: page.linePaint(verdict), symbol: verdict.symbol, size: 8, opacity: 0.85,
               line: {width: verdict.symbol.endsWith("open") ? 1.6 : 0.5,
                      color: verdict.symbol.endsWith("open") ? page.linePaint(verdict)
                        : page.variable("--ground")}},
    };
  }

  function dotText(i) {
    const where = data.axes.map((axis) => `${axis.name} ${page.valueOf(axis, i)}`);
    const name = data.verdicts[data.verdict[i]].name;
    return `member ${data.members[i]}: ${name}; ${where.join(", ")}`;
  }

  function words(x, up, there, shown) {
    const some = shown.length < there.length
      ? ` ${shown.length} of ${there.length} members, evenly picked, have a dot.` : "";
    const none = page.count - there.length;
    return `A dot is a member, at its ${x.name} and ${up.name}.${some}${
      none ? ` ${none} members have no ${up.name}, and no dot.` : ""}`;
  }

  function ground(panel, shown, at, logX, logY) {
    const order = [...shown].sort((a, b) => at(a)[0] - at(b)[0]);
    const linear = (value, log) => (log ? Math.log10(value) : value);
    return {
      where: (pick) => (pick.startsWith("member:")
        ? [page.place.get(Number(pick.slice(7)))] : null),
      move(spot, dx, dy) {
        const next = (spot ? order.indexOf(spot[0]) : -1) + (dx || dy);
        return [order[Math.min(Math.max(next, 0), order.length - 1)]];
      },
      rect([i]) {
        if (!shown.includes(i)) return null;
        const x = linear(at(i)[0], logX), y = linear(at(i)[1], logY);
        const {left, top} = page.pixels(panel, [x, x], [y, y]);
        return {left: left - 9, top: top - 9, width: 18, height: 18};
      },
      text: ([i]) => dotText(i),
      pick: ([i]) => `member:${data.members[i]}`,
    };
  }
})(window.compfast);
