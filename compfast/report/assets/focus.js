// The map by keyboard and by pointer: a box around a cell, its numbers, its members.
"use strict";
(function (page) {
  const MOVES = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]};
  const chart = document.getElementById("map");
  const said = document.getElementById("map-read");
  let spot = null; // where the keyboard is: a cell [x, y, z], or a member's place among the dots

  // map.js sets what there is to move over: {move(spot, dx, dy), rect(spot), text(spot), pick(spot)}
  page.ground = null;

  function box(name) {
    const found = chart.querySelector(`.box.${name}`);
    if (found) return found;
    const made = page.element("div", {className: `box ${name}`});
    made.setAttribute("aria-hidden", "true");
    chart.append(made);
    return made;
  }

  // Pixels of a rectangle in the numbers of one panel's axes.
  page.pixels = (panel, [x0, x1], [y0, y1]) => {
    const layout = chart._fullLayout, x = layout[panel.x], y = layout[panel.y];
    const left = x._offset + x.l2p(x0), right = x._offset + x.l2p(x1);
    const top = y._offset + y.l2p(y1), bottom = y._offset + y.l2p(y0);
    return {left, top, width: right - left, height: bottom - top};
  };

  function place(name, where) {
    const at = box(name), rect = where && page.ground.rect(where);
    at.hidden = !rect;
    if (!rect) return;
    for (const side of ["left", "top", "width", "height"]) at.style[side] = `${rect[side]}px`;
  }

  page.readOut = (where) => {
    said.textContent = where ? page.ground.text(where) : "";
  };

  page.markPick = () => {
    place("pick", page.ground.where(page.state.pick));
    place("focus", document.activeElement === chart ? spot : null);
  };

  page.forgetSpot = () => { spot = null; };

  function step(event) {
    const [dx, dy] = MOVES[event.key];
    spot = page.ground.move(spot || page.ground.where(page.state.pick), dx, dy);
    place("focus", spot);
    page.readOut(spot);
    event.preventDefault();
  }

  chart.addEventListener("keydown", (event) => {
    if (event.key in MOVES) step(event);
    else if ((event.key === "Enter" || event.key === " ") && spot) {
      event.preventDefault();
      page.choose(page.ground.pick(spot));
    } else if (event.key === "Escape") page.choose("");
  });
  chart.addEventListener("focus", () => spot && place("focus", spot));
  chart.addEventListener("blur", () => place("focus", null));
})(window.compfast);
