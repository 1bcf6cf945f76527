// Controls, what follows a choice, and the order in which the page is drawn.
"use strict";
(function (page) {
  const {state, data} = page;
  const byId = (id) => document.getElementById(id);

  // A labelled list of choices: [value, text].
  function select(into, label, choices, name, after) {
    const made = page.element("select", {id: `choose-${name}`});
    made.append(...choices.map(([value, text]) => page.element("option", {value, textContent: text})));
    made.value = state[name];
    made.addEventListener("change", () => { state[name] = made.value; after(); });
    into.append(page.element("label", {}, `${label} `, made));
    return made;
  }

  function mapControls() {
    const into = byId("map-controls");
    into.replaceChildren();
    const axes = data.axes.map((axis) => [axis.path, axis.name]);
    const dots = state.view === "dots";
    if (data.axes.some((axis) => axis.drawn)) {
      select(into, "View", [["shares", "shares"], ["dots", "a dot a member"]], "view", newAxes);
    }
    const verdicts = data.verdicts.map((v) => [v.name, dots ? v.name : `share of ${v.name}`]);
    select(into, "Show", [["", "all verdicts"], ...verdicts], "show", redrawn);
    if (axes.length) select(into, "across", axes, "x", newAxes);
    if (dots) {
      select(into, "up", page.heights().map((own) => [own.key, own.name]), "y", redrawn);
      if (!byId("choose-y").value) byId("choose-y").selectedIndex = 0;
      return;
    }
    const others = (taken) => [["", "nothing"], ...axes.filter(([path]) => !taken.includes(path))];
    if (axes.length > 1) select(into, "up", others([state.x]), "y", newAxes);
    if (axes.length > 2 || (axes.length > 1 && !state.y)) {
      select(into, "panels", others([state.x, state.y]), "z", newAxes);
    }
  }

  // An axis stands in one place only, and a cell belongs to the axes that it was chosen on.
  function newAxes() {
    const known = ["", ...data.axes.map((axis) => axis.path)];
    if (state.view !== "dots" && !known.includes(state.y)) state.y = "";
    if (state.y === state.x) state.y = "";
    if (state.z && (state.z === state.x || state.z === state.y)) state.z = "";
    mapControls();
    redrawn();
    page.drawScores();
  }

  function redrawn() {
    page.saveState();
    page.drawMap();
  }

  function spreadControls() {
    const into = byId("spread-controls");
    into.replaceChildren();
    if (!page.answers().data) return;
    const shown = [["answers", "each answer"], ["scores", "shares by member"]];
    select(into, "Held-out questions by", shown, "spread",
           () => { page.saveState(); page.drawSpread(); });
  }

  function curveControls() {
    const into = byId("curves-controls"), {windows, exams} = page.curves();
    into.replaceChildren();
    const after = () => { page.saveState(); page.drawCurves(); };
    const metrics = windows ? Object.keys(windows.columns) : [];
    const scores = exams ? Object.keys(exams.columns) : [];
    if (metrics.length && !metrics.includes(state.metric)) [state.metric] = metrics;
    if (scores.length && !scores.includes(state.score)) [state.score] = scores;
    if (metrics.length) {
      select(into, "Training", metrics.map((m) => [m, m.replace("_", " ")]), "metric", after);
    }
    if (scores.length) select(into, "Exams", scores.map((s) => [s, s]), "score", after);
    const log = page.element("input", {type: "checkbox", checked: state.log, id: "choose-log"});
    log.addEventListener("change", () => { state.log = log.checked; after(); });
    into.append(page.element("label", {}, log, " logarithmic"));
    const one = page.element("input", {type: "number", id: "choose-member", min: 0});
    one.addEventListener("change", () => page.choose(one.value === "" ? "" : `member:${one.value}`));
    into.append(page.element("label", {}, "Member ", one));
  }

  function chips() {
    byId("verdicts").replaceChildren(...data.verdicts.map((verdict) => {
      const share = verdict.count / (page.count || 1);
      const interval = [verdict.low, verdict.high].map((s) => Math.round(100 * s)).join("–");
      const made = page.element("button", {type: "button", className: "chip"},
        page.swatch(verdict), page.element("span", {textContent: verdict.name}),
        page.element("b", {textContent: page.percent(share)}),
        page.element("small", {textContent: `${verdict.count} · ${interval} %`}));
      made.dataset.verdict = verdict.name;
      made.title = `${verdict.count} of ${page.count} members; 95 % Wilson interval ${interval} %`;
      made.addEventListener("click", () => page.choose(
        state.pick === `verdict:${verdict.name}` ? "" : `verdict:${verdict.name}`));
      return made;
    }));
  }

  function said() {
    const {kind, text} = page.picked();
    byId("picked-text").textContent = kind === "all" ? `Below: ${text}.` : `Chosen: ${text}.`;
    byId("picked-clear").hidden = kind === "all";
    for (const id of ["picked-line", "picked-copy"]) byId(id).hidden = kind !== "member";
    if (kind === "member") {
      byId("picked-line").textContent = page.pythonLine(page.picked().member);
      byId("picked-copy").dataset.copy = page.picked().member;
    }
    for (const chip of document.querySelectorAll(".chip")) {
      chip.setAttribute("aria-pressed", String(state.pick === `verdict:${chip.dataset.verdict}`));
    }
    const one = byId("choose-member");
    if (one) one.value = kind === "member" ? state.pick.slice(7) : "";
  }

  // Everything below the map follows; what is seen first comes first.
  page.choose = (pick) => {
    state.pick = pick;
    page.saveState();
    said();
    page.markPick();
    soon([page.drawCurves, page.drawSpread, page.drawScores, page.tableFollows]);
  };

  let queue = [];
  let busy = false;
  page.busy = () => busy;

  function soon(tasks, done = () => {}) {
    const own = (queue = [...tasks]);
    busy = true;
    const next = () => {
      if (own !== queue) return; // a later choice took over
      const task = own.shift();
      busy = Boolean(task);
      if (!task) return void done();
      task();
      setTimeout(next);
    };
    setTimeout(next);
  }

  function drawAll(done) {
    chips();
    said();
    page.drawMap();
    soon([page.drawScores, page.drawSpread, page.drawTable, curveControls, page.drawCurves, said],
         done);
  }

  byId("picked-clear").addEventListener("click", () => page.choose(""));
  const download = page.element("button", {type: "button", className: "plain", id: "download",
                                           textContent: "Download as CSV"});
  download.addEventListener("click", () => page.download());
  byId("members-controls").append(download);
  page.onTheme(() => { page.markTheme(); page.forgetScores(); drawAll(); });
  addEventListener("beforeprint", () => printed(true));
  addEventListener("afterprint", () => printed(false));

  function printed(onPaper) {
    document.documentElement.classList.toggle("printing", onPaper);
    page.markTheme();
    chips();
    said();
    page.drawMap();
    page.forgetScores();
    page.drawScores();
    page.drawSpread();
  }

  let resizing = 0;
  addEventListener("resize", () => {
    clearTimeout(resizing);
    resizing = setTimeout(() => {
      page.forgetScores();
      page.drawMap();
      soon([page.drawScores, page.drawSpread, page.drawCurves]);
    }, 150);
  });

  const ready = (stage) => () => {
    document.documentElement.dataset.ready = stage;
    page.times = {...page.times, [stage]: performance.now()};
  };
  mapControls();
  spreadControls();
  drawAll(ready("all"));
  ready("map")();
})(window.compfast);
