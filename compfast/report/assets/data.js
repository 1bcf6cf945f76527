// What the page was given: JSON with columns of numbers as base64 (report/packing.py).
"use strict";
(function (page) {
  const KINDS = {
    u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i2: Int16Array,
    f4: Float32Array, f8: Float64Array,
  };

  function bytesOf(text) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
    const raw = atob(text), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    return bytes;
  }

  // Every {kind, bytes} in `value` as a typed array.
  function unpacked(value) {
    if (Array.isArray(value)) return value.map(unpacked);
    if (value === null || typeof value !== "object") return value;
    if (value.kind in KINDS && "bytes" in value) {
      return new KINDS[value.kind](bytesOf(value.bytes).buffer);
    }
    return Object.fromEntries(Object.entries(value).map(([name, own]) => [name, unpacked(own)]));
  }

  const read = page.read = (id) => unpacked(JSON.parse(document.getElementById(id).textContent));

  page.data = read("data");
  page.count = page.data.members.length;
  page.everybody = Array.from({length: page.count}, (_, i) => i);

  // An axis of one level, for what is not told apart.
  page.whole = {
    path: "", name: "all members", labels: ["all members"], level: new Uint8Array(page.count),
    binned: false, log: false,
  };
  page.axisOf = (path) => page.data.axes.find((axis) => axis.path === path) || page.whole;

  let curves = null;
  page.curves = () => (curves = curves || read("curves-data"));

  page.place = new Map(Array.from(page.data.members, (member, i) => [member, i]));

  // Text inside of a chart, where Plotly would read tags.
  page.plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;");

  page.element = (tag, own = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), own);
    made.append(...children);
    return made;
  };
})(window.compfast = window.compfast || {});
