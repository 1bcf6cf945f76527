// Single answers to the held-out items: how far the chosen members' are from a solution's.
"use strict";
(function (page) {
  const {state, data} = page;
  const HELD = 0.99; // of the answers are in the range that is drawn
  const MANY = 120; // bars from which on they touch
  const LISTED = 6; // differences that the sentence names
  const REST = {name: "other answers", light: "#8c959f", dark: "#7d8590", pattern: ""};
  let all = null;

  page.answers = () => (all = all || page.read("answers-data"));

  // "-5", or with a true minus and a plus sign.
  const signed = (d) => (d < 0 ? `−${-d}` : d > 0 ? `+${d}` : "0");

  // Mean over members of each one's shares: {shares: Map(difference -> share), known, members}.
  function shared(told, members) {
    const sums = new Float64Array(told.differences.length);
    const own = members.filter((i) => told.items[i] > 0);
    for (const i of own) {
      for (let r = told.first[i]; r < told.first[i + 1]; r++) {
        sums[told.difference[r]] += told.count[r] / told.items[i] / own.length;
      }
    }
    const shares = new Map();
    sums.forEach((share, k) => { if (share > 0) shares.set(told.differences[k], share); });
    const outside = shares.get(null) || 0; // answers that are no number
    shares.delete(null);
    return {shares, outside, members: own, absent: members.length - own.length};
  }

  // Solutions that differ from the first one by one number, the same for all of these members.
  function solutions(told, members) {
    const kinds = [...new Set(members.map((i) => told.kind[i]))].map((k) => told.kinds[k]);
    const names = [...new Set(kinds.flatMap((kind) => Object.keys(kind)))];
    const one = [], several = [];
    for (const name of names) {
      const found = new Set(kinds.map((kind) => (name in kind ? kind[name] : null)));
      const [difference] = found;
      if (found.size === 1 && difference !== null) one.push({name, difference});
      else several.push(name);
    }
    return {one, several};
  }

  // The shortest range of differences with `HELD` of what is shown, and the solutions' in it.
  function range(shares, marks) {
    const sorted = [...shares].sort(([a], [b]) => a - b);
    const total = sorted.reduce((sum, [, share]) => sum + share, 0);
    let best = [0, 0], width = Infinity, sum = 0, low = 0;
    for (const [d, share] of sorted) {
      sum += share;
      while (sum - sorted[low][1] >= HELD * total - 1e-9) sum -= sorted[low++][1];
      if (sum >= HELD * total - 1e-9 && d - sorted[low][0] < width) {
        best = [sorted[low][0], d];
        width = d - sorted[low][0];
      }
    }
    const ends = [...best, ...marks.map((mark) => mark.difference)];
    return [Math.min(...ends), Math.max(...ends)];
  }

  const paintOf = (name) => data.scores.find((score) => score.name === name) || REST;

  function bars(label, name, own, count) {
    const paint = page.paint(label);
    return {
      type: "bar", name: page.plain(name), x: own.map(([d]) => d), y: own.map(([, share]) => share),
      text: own.map(([d, share]) => page.plain(`${signed(d)}: ${page.percent(share)} of the answers`)),
      hovertemplate: `%{text}<extra>${page.plain(name)}</extra>`, textposition: "none",
      marker: {color: paint, pattern: label.pattern ? page.pattern(label) : {shape: ""},
               line: {width: count > MANY ? 1 : 0, color: paint}},
    };
  }

  page.drawAnswers = () => {
    const told = page.answers().data, picked = page.picked();
    const found = shared(told, picked.members), marks = solutions(told, found.members);
    const [low, high] = range(found.shares, marks.one);
    const inside = [...found.shares].filter(([d]) => d >= low && d <= high);
    const taken = new Map(marks.one.map((mark) => [mark.difference, mark]));
    const rest = inside.filter(([d]) => !taken.has(d));
    const traces = marks.one.map(({name, difference}) => bars(
      paintOf(name), `${name} (${signed(difference)})`,
      [[difference, found.shares.get(difference) || 0]], high - low));
    traces.push(bars(REST, REST.name, rest, high - low));
    page.draw("spread", traces, page.layout({
      showlegend: true, margin: {l: 56, r: 14, t: 34, b: 46}, barmode: "overlay", bargap: high - low > MANY ? 0 : 0.15,
      xaxis: page.axisStyle({range: [low - 0.8, high + 0.8],
                             title: page.plain(`answer minus that of ${told.reference}`)}),
      yaxis: page.axisStyle({rangemode: "tozero", tickformat: ".0%", title: "share of the answers",
                             ...(found.members.length ? {} : {range: [0, 1]})}),
      shapes: marks.one.map(({name, difference}) => ({
        type: "line", x0: difference, x1: difference, y0: 0, y1: 1, yref: "paper", layer: "below",
        line: {color: page.clear(page.paint(paintOf(name)), 0.7), width: 1, dash: "dot"},
      })),
    }));
    document.getElementById("spread-said").textContent = words(told, picked, found, marks, inside,
                                                               [low, high]);
  };

  function words(told, picked, found, marks, inside, [low, high]) {
    if (!found.members.length) return `${picked.text}. None of them has answers: they diverged.`;
    const named = new Map(marks.one.map((mark) => [mark.difference, ` (${mark.name})`]));
    const top = [...inside].sort((a, b) => b[1] - a[1]);
    const listed = top.slice(0, LISTED)
      .map(([d, share]) => `${signed(d)}${named.get(d) || ""} ${page.percent(share)}`);
    const drawn = inside.reduce((sum, [, share]) => sum + share, 0);
    const beyond = 1 - drawn - found.outside;
    const said = [`${picked.text}. Likeliest answers to held-out questions at step ${told.step}, by`
      + ` their difference to ${told.reference}: ${listed.join(", ")}`
      + `${top.length > LISTED ? `; ${top.length - LISTED} more differences are drawn` : ""}.`];
    if (found.members.length > 1) said.push("Shares are means over members.");
    if (beyond > 5e-5) said.push(`${few(beyond)} are beyond ${signed(low)} to ${signed(high)}.`);
    if (found.outside > 0) said.push(`${few(found.outside)} are no number of the task.`);
    if (told.moduli.length) said.push(`Differences are modulo ${told.moduli.join(" or ")}.`);
    if (marks.several.length) {
      said.push(`${marks.several.join(" and ")}: not one difference for all questions.`);
    }
    if (found.absent) said.push(`${found.absent} have no answers: they diverged.`);
    if (told.each) {
      said.push(`Of a member the ${told.each} commonest differences are here; compfast.analysis.answers`
        + " gives all.");
    }
    return said.join(" ");
  }

  const few = (share) => (share < 1e-3 ? "Less than 0.1 %" : page.percent(share));
})(window.compfast);
