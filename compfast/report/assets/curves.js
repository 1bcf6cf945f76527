// Training curves of the chosen members: windows of training on the left, exams on the right.
"use strict";
(function (page) {
  const {state, data} = page;
  const MOST_LINES = 40;
  const NOTHING = "There are no curves: nothing was logged yet, or it is not here.";
  const NARROW = 640; // pixels

  // A member's rows of one column: {steps, values}.
  function rowsOf(part, name, i) {
    const first = part.first[i], last = part.first[i + 1], steps = [], values = [];
    const column = part.columns[name];
    for (let r = first; r < last; r++) {
      steps.push(part.steps[part.step[r]]);
      values.push(column[r]);
    }
    return {steps, values};
  }

  // One trace for all members of a verdict, with gaps between members: few elements, quick.
  function lines(part, name, members, verdict, axes) {
    const x = [], y = [], who = [];
    for (const i of members) {
      const own = rowsOf(part, name, i);
      for (let k = 0; k < own.steps.length; k++) {
        x.push(own.steps[k]);
        y.push(own.values[k]);
        who.push(i);
      }
      x.push(null); y.push(null); who.push(i);
    }
    const few = members.length <= 4;
    return {
      type: "scatter", mode: part.steps.length > 2 ? "lines" : "lines+markers", name: page.plain(verdict.name), ...axes, x, y,
      customdata: who, text: who.map((i) => `member ${data.members[i]}`),
      hovertemplate: `%{text}, step %{x}: %{y:.4g}<extra>${page.plain(verdict.name)}</extra>`,
      line: {color: page.clear(page.linePaint(verdict), few ? 1 : 0.6), width: few ? 2 : 1.3,
             dash: verdict.dash},
      legendgroup: verdict.name, showlegend: axes.xaxis === "x",
    };
  }

  // Where members stopped being finite.
  function ends(part, name, members, axes) {
    const gone = members.filter((i) => data.verdicts[data.verdict[i]].diverged);
    const found = gone.map((i) => {
      const own = rowsOf(part, name, i);
      const last = own.values.map(Number.isFinite).lastIndexOf(true);
      return last < 0 ? null : [own.steps[last], own.values[last], i];
    }).filter(Boolean);
    if (!found.length) return [];
    return [{
      type: "scatter", mode: "markers", name: "diverged here", ...axes,
      x: found.map(([step]) => step), y: found.map(([, value]) => value),
      customdata: found.map(([, , i]) => i),
      text: found.map(([, , i]) => `member ${data.members[i]} diverged`
        + (data.places.steps ? ` at step ${data.places.steps[i]}` : "")),
      hovertemplate: "%{text}<extra></extra>", showlegend: axes.xaxis === "x",
      marker: {symbol: "x", size: 10, color: page.variable("--ink"),
               line: {width: 1, color: page.variable("--ground")}},
    }];
  }

  // The exams of one member: every score, and its verdict at each.
  function exams(part, i) {
    return data.scores.filter((s) => s.share && s.name in part.columns).map((score) => {
      const own = rowsOf(part, score.name, i), first = part.first[i];
      const said = own.steps.map((step, k) => {
        const verdict = part.labels[part.verdict[first + k]];
        return `step ${step}: ${score.name} ${page.number(own.values[k])}; verdict ${verdict}`;
      });
      return {
        type: "scatter", mode: "lines+markers", name: page.plain(score.name), xaxis: "x2",
        yaxis: "y2", x: own.steps, y: own.values, text: said.map(page.plain),
        customdata: own.steps.map(() => i), hovertemplate: "%{text}<extra></extra>",
        line: {color: page.paint(score), width: 2, dash: score.dash},
        marker: {symbol: score.symbol, size: 6}, legend: "legend2",
      };
    });
  }

  const groups = (members) => data.verdicts
    .map((verdict, v) => [verdict, members.filter((i) => data.verdict[i] === v)])
    .filter(([, own]) => own.length);

  function sheet(part, name, members, axes) {
    if (!part || !(name in part.columns)) return [];
    return [...groups(members).map(([verdict, own]) => lines(part, name, own, verdict, axes)),
            ...ends(part, name, members, axes)];
  }

  page.drawCurves = () => {
    const {windows, exams: tested} = page.curves(), picked = page.picked();
    const nothing = !windows && !tested;
    document.getElementById("curves").hidden = nothing;
    document.getElementById("curves-said").textContent = NOTHING;
    if (nothing) return;
    const shown = page.someOf(picked.members, MOST_LINES);
    const one = picked.kind === "member";
    const left = sheet(windows, state.metric, shown, {xaxis: "x", yaxis: "y"});
    const right = one && tested ? exams(tested, shown[0])
      : sheet(tested, state.score, shown, {xaxis: "x2", yaxis: "y2"});
    const beside = page.widthOf("curves") > NARROW; // else one below the other
    document.getElementById("curves").style.height = beside ? "" : "560px";
    const [across, across2] = beside ? [[0, 0.45], [0.55, 1]] : [[0, 1], [0, 1]];
    const [up, up2] = beside ? [[0, 1], [0, 1]] : [[0.6, 1], [0, 0.4]];
    page.draw("curves", [...left, ...right], page.layout({
      showlegend: true, dragmode: "zoom", margin: {l: 60, r: 14, t: 40, b: 46},
      legend: {orientation: "h", x: 0, y: 1.02, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)"},
      legend2: {orientation: "h", x: across2[0], y: up2[1] + 0.02, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)"},
      xaxis: page.axisStyle({domain: across, title: "step", fixedrange: false}),
      yaxis: page.axisStyle({domain: up, title: page.plain(state.metric.replace("_", " ")), fixedrange: false,
                             type: state.log ? "log" : "linear"}),
      xaxis2: page.axisStyle({domain: across2, anchor: "y2", title: "step", fixedrange: false}),
      yaxis2: page.axisStyle({domain: up2, anchor: "x2", fixedrange: false,
                              title: one ? "score at exams" : page.plain(`${state.score} at exams`),
                              ...(isShare(one) ? {range: [-0.03, 1.03], tickformat: ".0%"} : {})}),
    }));
    listen(document.getElementById("curves"));
    document.getElementById("curves-said").textContent = words(windows, tested, picked, shown);
  };

  const isShare = (one) => one
    || data.scores.some((score) => score.name === state.score && score.share);

  function words(windows, tested, picked, shown) {
    const some = shown.length < picked.members.length
      ? `${shown.length} of ${picked.members.length} members, evenly picked` : picked.text;
    const thin = [["window", windows], ["exam", tested]].filter(([, p]) => p && p.every > 1)
      .map(([what, part]) => ` Of the ${part.rows} ${what}s every ${part.every}th of a member is`
        + " here, counted back from its last; the metrics files hold all.");
    return `${some}; a line is a member, in the colour of its verdict.${thin.join("")}`;
  }

  function listen(chart) {
    if (chart.dataset.listens) return;
    chart.dataset.listens = "yes";
    chart.on("plotly_click", (event) => {
      const i = event.points[0].customdata;
      if (Number.isInteger(i)) page.choose(`member:${data.members[i]}`);
    });
  }
})(window.compfast);
