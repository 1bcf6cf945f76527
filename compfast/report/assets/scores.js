// Agreements over the first axis, and how the chosen members' scores are spread.
"use strict";
(function (page) {
  const {state, data} = page;
  const BINS = 20;
  const shares = data.scores.filter((score) => score.share);
  // `other` is no solution: its agreement over an axis says nothing.
  const solutions = shares.filter((score) => score.candidate || score.name === "seen");

  // Members of the chosen row of a map; all of them where no cell is chosen.
  function along() {
    const level = {...page.picked().level};
    delete level[state.x];
    const wanted = Object.entries(level).map(([path, k]) => [page.axisOf(path), k]);
    const members = page.everybody.filter((i) => wanted.every(([axis, k]) => axis.level[i] === k));
    const where = wanted.map(([axis, k]) => `${axis.name} ${axis.labels[k]}`).join(", ");
    return {members, where};
  }

  function summary(axis, members, values) {
    const own = axis.labels.map(() => []);
    for (const i of members) if (Number.isFinite(values[i])) own[axis.level[i]].push(values[i]);
    return own.map((list) => {
      if (!list.length) return null;
      list.sort((a, b) => a - b);
      return [page.mean(list), page.quantile(list, 0.25), page.quantile(list, 0.75), list.length];
    });
  }

  let drawn = ""; // what the curves show now: most choices leave it as it is
  page.forgetScores = () => { drawn = ""; };

  page.drawScores = () => {
    const x = page.axisOf(state.x), {members, where} = along();
    if (drawn === `${x.path}: ${where}`) return;
    drawn = `${x.path}: ${where}`;
    const traces = solutions.flatMap((score) => {
      const rows = summary(x, members, score.values);
      return score.candidate ? [band(rows, score), curve(x, rows, score)] : [curve(x, rows, score)];
    });
    page.draw("scores", traces, page.layout({
      showlegend: true, margin: {l: 56, r: 14, t: 34, b: 46},
      xaxis: page.axisStyle({...page.levelTicks(x, page.widthOf("scores")), range: [-0.5, x.labels.length - 0.5],
                             title: page.plain(x.name)}),
      yaxis: page.axisStyle({range: [-0.03, 1.03], tickformat: ".0%", title: "mean agreement"}),
    }));
    document.getElementById("scores-said").textContent = solutions.length
      ? `Means, and the middle half of the members as bands; ${where || "all members"}. `
        + "seen: how well members do on what they were trained for."
      : "This run has no scores.";
  };

  function band(rows, score) {
    const there = rows.map((row, i) => [row, i]).filter(([row]) => row);
    const back = [...there].reverse();
    return {
      type: "scatter", mode: "lines", hoverinfo: "skip", showlegend: false, line: {width: 0},
      x: [...there, ...back].map(([, i]) => i), fill: "toself",
      y: [...there.map(([row]) => row[1]), ...back.map(([row]) => row[2])],
      fillcolor: page.clear(page.paint(score), 0.18),
    };
  }

  function curve(x, rows, score) {
    return {
      type: "scatter", mode: rows.length <= 40 ? "lines+markers" : "lines",
      name: page.plain(score.name), x: rows.map((_, i) => i),
      y: rows.map((row) => (row ? row[0] : null)),
      text: rows.map((row, i) => row && page.plain(`${score.name} ${page.number(row[0])}`
        + ` (middle half ${page.number(row[1])} to ${page.number(row[2])}, ${row[3]} members);`
        + ` ${x.name} ${x.labels[i]}`)),
      hovertemplate: "%{text}<extra></extra>",
      line: {color: page.paint(score), width: 2, dash: score.dash},
      marker: {symbol: score.symbol, size: 6},
    };
  }

  const TITLES = {
    answers: "Answers of the chosen members",
    scores: "Scores of the chosen members",
  };

  // Single answers, where the page has them, or the shares that the exam stored.
  page.drawSpread = () => {
    const shown = page.answers().data ? state.spread : "scores";
    document.getElementById("spread-title").textContent = TITLES[shown];
    if (shown === "answers") page.drawAnswers();
    else drawShares();
  };

  function drawShares() {
    const {members, text} = page.picked(), {said} = page.answers();
    const traces = shares.map((score) => histogram(members, score));
    page.draw("spread", traces, page.layout({
      showlegend: page.widthOf("spread") > 300, margin: {l: 62, r: 14, t: 34, b: 46},
      xaxis: page.axisStyle({range: [-0.02, 1.02], title: "score", tickformat: ".0%"}),
      yaxis: page.axisStyle({rangemode: "tozero", title: "members"}),
    }));
    document.getElementById("spread-said").textContent = `${text}. Share of held-out questions `
      + "answered as each solution does (seen: of trained ones; other: its most frequent "
      + `other answer), in steps of ${100 / BINS} %.${said ? ` ${said}` : ""}`;
  }

  function histogram(members, score) {
    const counts = new Array(BINS).fill(0);
    for (const i of members) {
      const value = score.values[i];
      if (Number.isFinite(value)) counts[Math.min(Math.max(Math.floor(value * BINS), 0), BINS - 1)]++;
    }
    return {
      type: "scatter", mode: "lines", name: page.plain(score.name),
      x: [0, ...counts.map((_, b) => (b + 1) / BINS)], y: [...counts, counts[BINS - 1]],
      text: [...counts, 0].map((k, b) => page.plain(
        `${k} members have ${score.name} ${Math.round(100 * b / BINS)} to `
        + `${Math.round(100 * (b + 1) / BINS)} %`)),
      hovertemplate: "%{text}<extra></extra>",
      line: {color: page.paint(score), width: 2, dash: score.dash, shape: "hv"},
      fill: score.candidate ? "tozeroy" : "none",
      fillcolor: page.clear(page.paint(score), 0.14),
    };
  }
})(window.compfast);
