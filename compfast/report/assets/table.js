// The table of members (DataTables): filters, weights, the line of Python that loads a member.
"use strict";
(function (page) {
  const {data} = page;
  const RANGE = /^\s*(-?[\d.e+-]+)?\s*\.\.\s*(-?[\d.e+-]+)?\s*$/i;
  const BOUND = /^\s*(<=|>=|<|>|=)\s*(-?[\d.e+-]+)\s*$/i;
  let table = null;
  const tests = {}; // column -> whether its filter lets a place through
  let chosen = null; // a Set of places, or null: all

  page.pythonLine = (member) => {
    const path = data.path === null ? "RUN" : JSON.stringify(data.path);
    return `import compfast; model = compfast.load(${path}).model(${member})`;
  };

  // What a filter's text asks of a cell; null: nothing.
  page.filterOf = (text) => {
    if (!text.trim()) return null;
    const range = text.match(RANGE), bound = text.match(BOUND);
    if (range && (range[1] || range[2])) {
      const low = range[1] ? Number(range[1]) : -Infinity;
      const high = range[2] ? Number(range[2]) : Infinity;
      return (shown, raw) => raw !== null && raw >= low && raw <= high;
    }
    if (bound) return (shown, raw) => raw !== null && compared(raw, bound[1], Number(bound[2]));
    const wanted = text.trim().toLowerCase();
    if (Number.isFinite(Number(wanted))) {
      return (shown, raw) => (typeof raw === "number" ? raw === Number(wanted)
        || shown === wanted : shown.toLowerCase().includes(wanted));
    }
    return (shown) => shown.toLowerCase().includes(wanted);
  };

  function compared(value, sign, bound) {
    if (sign === "=") return value === bound;
    if (sign[0] === "<") return sign === "<" ? value < bound : value <= bound;
    return sign === ">" ? value > bound : value >= bound;
  }

  // {title, words (no numbers), raw(i), shown(i)} of every column; raw is what is sorted, filtered and downloaded.
  function columns() {
    const finite = (value) => (Number.isFinite(value) ? value : null);
    return [
      {title: "member", raw: (i) => data.members[i], shown: (i) => String(data.members[i])},
      ...data.axes.map((axis) => ({title: axis.name, words: wordy(axis), raw: (i) => rawLevel(axis, i),
                                   shown: (i) => String(page.valueOf(axis, i))})),
      {title: "verdict", words: true, raw: verdictName, shown: verdictName},
      ...data.scores.map((score) => ({title: score.name, raw: (i) => finite(score.values[i]),
                                      shown: (i) => page.number(score.values[i])})),
      ...(data.places.steps ? [{title: "steps", raw: (i) => data.places.steps[i],
                                shown: (i) => String(data.places.steps[i])}] : []),
    ];
  }

  const verdictName = (i) => data.verdicts[data.verdict[i]].name;

  const numeral = (text) => text.trim() !== "" && Number.isFinite(Number(text));
  const wordy = (axis) => !axis.drawn && !axis.labels.every(numeral);

  function rawLevel(axis, i) {
    if (axis.drawn) return axis.drawn[i];
    const text = axis.labels[axis.level[i]];
    return wordy(axis) ? text : Number(text);
  }

  const safe = (text) => page.plain(text).replace(/"/g, "&quot;");

  function rendered(column) {
    return (place, kind) => {
      if (kind === "display") return safe(column.shown(place));
      const raw = column.raw(place);
      return raw === null ? "" : raw;
    };
  }

  function loading() {
    const copy = (i) => `<button type="button" class="mini" data-copy="${data.members[i]}" `
      + `aria-label="Copy the Python line that loads member ${data.members[i]}">copy</button>`;
    const link = (i) => {
      const group = data.places.group ? data.places.group[i] : 0, row = data.places.row;
      return ` <a href="${safe(encodeURI(data.weights[group]))}">weights</a>`
        + (row ? ` row ${row[i]}` : "");
    };
    return (i) => copy(i) + (data.weights && data.weights.length ? link(i) : "");
  }

  function verdictCell(i) {
    const verdict = data.verdicts[data.verdict[i]];
    return page.swatch(verdict, true).outerHTML + safe(verdict.name);
  }

  const found = columns();

  page.drawTable = () => {
    if (table) return;
    const load = loading();
    table = new DataTable("#members-table", {
      data: page.everybody.map((i) => [i]),
      columns: [
        ...found.map((column) => ({
          title: safe(column.title), data: 0, searchable: false, type: column.words ? "string" : "num",
          render: column.title === "verdict"
            ? (i, kind) => (kind === "display" ? verdictCell(i) : verdictName(i)) : rendered(column),
        })),
        {title: "load it", data: 0, orderable: false, searchable: false,
         render: (i, kind) => (kind === "display" ? load(i) : "")},
      ],
      order: [], pageLength: 15, lengthMenu: [15, 50, 200], autoWidth: false,
      layout: {topStart: null, topEnd: null, bottomStart: "info", bottomEnd: "paging"},
      createdRow: (row, [i]) => { row.dataset.member = data.members[i]; row.tabIndex = 0; },
      drawCallback: markRow,
    });
    // One test for all: the library's own would first spell out every cell of every row.
    table.search.fixed("own", (_, [i]) => (!chosen || chosen.has(i))
      && Object.values(tests).every((test) => test(i)));
    filters();
    page.tableFollows();
  };

  // A second row of headers, with an input a column.
  function filters() {
    const row = page.element("tr");
    found.forEach((column, k) => {
      const input = page.element("input", {type: "search", placeholder: "filter"});
      input.setAttribute("aria-label", `Filter by ${column.title}`);
      input.addEventListener("input", () => filterBy(k, input.value));
      row.append(page.element("td", {}, input));
    });
    row.append(page.element("td"));
    document.querySelector("#members-table thead").append(row);
  }

  function filterBy(k, text) {
    const test = page.filterOf(text);
    if (test) tests[k] = (i) => test(found[k].shown(i), found[k].raw(i));
    else delete tests[k];
    table.draw();
  }

  // The rows are those of the chosen cell or verdict.
  page.tableFollows = () => {
    if (!table) return;
    const picked = page.picked();
    chosen = picked.kind === "all" || picked.kind === "member" ? null : new Set(picked.members);
    table.draw();
    if (picked.kind === "member") turnTo(picked.members[0]);
  };

  // The page of the table that has this place, where the filters let it through.
  function turnTo(place) {
    const shown = table.rows({search: "applied", order: "applied"}).data().toArray();
    const at = shown.findIndex(([i]) => i === place);
    if (at >= 0) table.page(Math.floor(at / table.page.len())).draw(false);
  }

  function markRow() {
    const picked = page.picked();
    for (const row of document.querySelectorAll("#members-table tbody tr")) {
      row.classList.toggle("chosen", picked.kind === "member"
        && row.dataset.member === String(picked.member));
    }
  }

  const quoted = (value) => {
    const text = value === null ? "" : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
  };

  // The rows that the filters leave, in the order shown, with every digit.
  page.csv = () => {
    const places = table.rows({search: "applied", order: "applied"}).data().toArray()
      .map(([i]) => i);
    const lines = places.map((i) => found.map((column) => quoted(column.raw(i))).join(","));
    return [found.map((column) => quoted(column.title)).join(","), ...lines, ""].join("\r\n");
  };

  page.download = () => {
    const link = page.element("a", {download: "members.csv"});
    link.href = URL.createObjectURL(new Blob([page.csv()], {type: "text/csv"}));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };

  async function copied(button) {
    const line = page.pythonLine(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(line);
      button.textContent = "copied";
    } catch (refused) { // without the right to: shown, so that it can be copied by hand
      prompt("The line that loads this member:", line);
    }
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (button) copied(button);
  });

  const body = document.getElementById("members-table");
  const act = (event) => {
    if (event.target.closest("[data-copy]")) return;
    const row = event.target.closest("tr[data-member]");
    if (row && !event.target.closest("a")) page.choose(`member:${row.dataset.member}`);
  };
  body.addEventListener("click", act);
  body.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.matches("tr[data-member]")) act(event);
  });
})(window.compfast);
