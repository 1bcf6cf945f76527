// What is being looked at: axes, chosen members. It stands in the address, so a link keeps it.
"use strict";
(function (page) {
  const axes = page.data.axes;
  const SEED = "seed";
  const own = axes.filter((axis) => axis.path !== SEED);
  const MANY = 3; // levels of a second axis from which on a map says more than panels

  function defaults() {
    const [x, y, z] = own;
    const drawn = axes.some((axis) => axis.drawn && axis.binned);
    return {
      x: (x || axes[0] || page.whole).path,
      y: !drawn && y && y.labels.length >= MANY ? y.path : "",
      z: drawn || !y ? "" : y.labels.length < MANY ? y.path : z ? z.path : "",
      view: drawn ? "dots" : "shares",
      show: "",
      pick: "",
      metric: "loss",
      score: (page.data.scores.find((s) => s.candidate) || page.data.scores[0] || {name: ""}).name,
      log: true,
      spread: "answers",
    };
  }

  const state = (page.state = defaults());
  const initial = {...state};

  function readAddress() {
    for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
      if (name === "log") state.log = value === "true";
      else if (name in state) state[name] = value;
    }
    const known = new Set(["", ...axes.map((axis) => axis.path)]);
    for (const name of ["x", "y", "z"]) if (!known.has(state[name])) state[name] = initial[name];
    if (!["shares", "dots"].includes(state.view)) state.view = initial.view;
    if (!["answers", "scores"].includes(state.spread)) state.spread = initial.spread;
    if (!page.data.verdicts.some((v) => v.name === state.show)) state.show = "";
  }

  page.saveState = () => {
    const changed = Object.entries(state).filter(([name, value]) => value !== initial[name]);
    const text = new URLSearchParams(changed).toString();
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  };

  page.axesShown = () => [state.x, state.y, state.z].map(page.axisOf);

  // What `state.pick` says: {kind, text, members (places), level: {path: level}}.
  // "verdict:NAME", "member:17", "cell:init.gamma=3&model.layers=0", "" for everybody.
  page.picked = () => {
    const cut = state.pick.indexOf(":");
    const kind = state.pick.slice(0, Math.max(cut, 0)), rest = state.pick.slice(cut + 1);
    if (kind === "member" && page.place.has(Number(rest))) return pickedMember(Number(rest));
    if (kind === "verdict") return pickedVerdict(rest);
    if (kind === "cell") return pickedCell(new URLSearchParams(rest));
    return {kind: "all", text: `all ${page.count} members`, members: page.everybody, level: {}};
  };

  function pickedMember(member) {
    const i = page.place.get(member), verdict = page.data.verdicts[page.data.verdict[i]];
    const where = axes.map((axis) => `${axis.name} ${page.valueOf(axis, i)}`).join(", ");
    const text = `member ${member}: ${verdict.name}${where ? `; ${where}` : ""}`;
    return {kind: "member", text, members: [i], level: {}, member};
  }

  function pickedVerdict(name) {
    const v = page.data.verdicts.findIndex((verdict) => verdict.name === name);
    const members = page.everybody.filter((i) => page.data.verdict[i] === v);
    return {kind: "verdict", text: `${members.length} members: ${name}`, members, level: {}};
  }

  function pickedCell(given) {
    const level = {}, said = [];
    for (const [path, text] of given) {
      const axis = page.axisOf(path), place = Number(text);
      if (axis === page.whole || !(place in axis.labels)) continue;
      level[path] = place;
      said.push(`${axis.name} ${axis.labels[place]}`);
    }
    const wanted = Object.entries(level).map(([path, place]) => [page.axisOf(path).level, place]);
    const members = page.everybody.filter((i) => wanted.every(([own, place]) => own[i] === place));
    return {kind: "cell", text: `${members.length} members: ${said.join(", ") || "all"}`, members,
            level};
  }

  page.cellPick = (cell) => {
    const parts = page.axesShown().map((axis, k) => [axis.path, cell[k]]).filter(([p]) => p);
    return `cell:${new URLSearchParams(parts)}`;
  };

  page.valueOf = (axis, i) => (
    axis.drawn ? page.number(axis.drawn[i]) : axis.labels[axis.level[i]]
  );

  readAddress();
})(window.compfast);
