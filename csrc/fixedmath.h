// float64 log and sin/cos(2 pi u) with the same bits on every CPU: compfast/streams/fixedmath.py,
// line by line. Only + - * / in the written order; the build forbids contraction.
#pragma once

#include <cstdint>
#include <cstring>

namespace compfast {

static inline double fixed_horner(const double* c, int n, double z) {
  double p = c[0];
  for (int i = 1; i < n; i++) p = p * z + c[i];
  return p;
}

// Natural logarithm of a normal, positive, finite x.
static inline double fixed_log(double x) {
  static const double LOG[] = {2.0 / 23.0, 2.0 / 21.0, 2.0 / 19.0, 2.0 / 17.0,
                               2.0 / 15.0, 2.0 / 13.0, 2.0 / 11.0, 2.0 / 9.0,
                               2.0 / 7.0,  2.0 / 5.0,  2.0 / 3.0};
  int64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const int64_t k = (bits - 0x3FE6A09E667F3BCD) >> 52;
  bits -= (int64_t)((uint64_t)k << 52);
  double m;
  std::memcpy(&m, &bits, sizeof m);
  const double e = (double)k;
  const double s = (m - 1.0) / (m + 1.0);
  const double z = s * s;
  const double tail = (s * z) * fixed_horner(LOG, 11, z) + e * 0x1.a39ef35793c76p-33;
  return e * 0x1.62e42feep-1 + (2.0 * s + tail);
}

// sin and cos of 2 pi u, u in [0, 1).
static inline void fixed_sincos_turn(double u, double* sine, double* cosine) {
  static const double SIN[] = {
      1.0 / 355687428096000.0, -1.0 / 1307674368000.0, 1.0 / 6227020800.0, -1.0 / 39916800.0,
      1.0 / 362880.0,          -1.0 / 5040.0,          1.0 / 120.0,        -1.0 / 6.0};
  static const double COS[] = {
      1.0 / 20922789888000.0, -1.0 / 87178291200.0, 1.0 / 479001600.0, -1.0 / 3628800.0,
      1.0 / 40320.0,          -1.0 / 720.0,         1.0 / 24.0,        -1.0 / 2.0};
  const double t = 4.0 * u;
  const int64_t quadrant = (int64_t)(t + 0.5);
  const double x = (t - (double)quadrant) * 0x1.921fb54442d18p+0;
  const double z = x * x;
  const double s = x + (x * z) * fixed_horner(SIN, 8, z);
  const double c = 1.0 + z * fixed_horner(COS, 8, z);
  const bool odd = (quadrant & 1) == 1;
  *sine = odd ? c : s;
  *cosine = odd ? s : c;
  if ((quadrant & 2) == 2) *sine = -*sine;
  if (((quadrant + 1) & 2) == 2) *cosine = -*cosine;
}

}  // namespace compfast
