// Counts, shares, intervals and quantiles.
"use strict";
(function (page) {
  const Z = 1.959964; // 95 %, as compfast.solutions.wilson

  page.wilson = (k, n) => {
    if (!n) return [0, 1];
    const p = k / n, scale = 1 + Z * Z / n, centre = p + Z * Z / (2 * n);
    const spread = Z * Math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n));
    return [k === 0 ? 0 : (centre - spread) / scale, k === n ? 1 : (centre + spread) / scale];
  };

  // Members of each cell by verdict: counts[((z * Y) + y) * X + x][verdict].
  page.tally = (x, y, z) => {
    const X = x.labels.length, Y = y.labels.length, Z_ = z.labels.length;
    const V = page.data.verdicts.length, verdict = page.data.verdict;
    const counts = Array.from({length: X * Y * Z_}, () => new Uint32Array(V));
    for (let i = 0; i < page.count; i++) {
      counts[(z.level[i] * Y + y.level[i]) * X + x.level[i]][verdict[i]]++;
    }
    return {counts, at: (ix, iy, iz) => counts[(iz * Y + iy) * X + ix]};
  };

  page.total = (counts) => counts.reduce((sum, k) => sum + k, 0);

  page.percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.095 ? 1 : 0)} %`;

  // "12 of 16 (75 %, 51 to 90)"
  page.shareText = (k, n) => {
    const [low, high] = page.wilson(k, n).map((s) => Math.round(100 * s));
    return `${k} of ${n} (${page.percent(n ? k / n : 0)}, ${low} to ${high})`;
  };

  // Quantile of ascending numbers, linear between neighbours.
  page.quantile = (sorted, q) => {
    const at = q * (sorted.length - 1), low = Math.floor(at), high = Math.ceil(at);
    return sorted[low] + (at - low) * (sorted[high] - sorted[low]);
  };

  page.mean = (numbers) => numbers.reduce((sum, v) => sum + v, 0) / numbers.length;

  // At most `most` of these, evenly picked, both ends among them.
  page.someOf = (list, most) => {
    if (list.length <= most) return list;
    const last = list.length - 1;
    return Array.from({length: most}, (_, i) => list[Math.round(i * last / (most - 1))]);
  };

  page.number = (value) => {
    if (value === null || !Number.isFinite(value)) return "–";
    return Math.abs(value) >= 1e4 || (value !== 0 && Math.abs(value) < 1e-3)
      ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  };
})(window.compfast);
