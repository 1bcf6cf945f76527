// The SIMD kernels of one instruction set against loops in double, for awkward sizes. Built once
// a width, under AddressSanitizer and UBSan; every buffer is exactly as long as its contract says.
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <vector>

#include "adamw.h"
#include "attention.h"
#include "cross_entropy.h"
#include "head_linear.h"
#include "linear.h"
#include "norm.h"
#include "sgd.h"

namespace {

int failures = 0;
std::mt19937 generator(7);

void expect(bool ok, const char* what, double got, double want) {
  if (ok) return;
  failures++;
  std::printf("FAILED %s: got %.9g, want %.9g\n", what, got, want);
}

// |got - want| <= 4 eps * scale: `scale` is the op evaluated on absolute values.
void near(const char* what, double got, double want, double scale) {
  const double band = 4.0 * std::numeric_limits<float>::epsilon() * (scale + 1e-30);
  expect(std::isfinite(got) && std::fabs(got - want) <= band, what, got, want);
}

// [rows, ld] with zero padding past `columns`
std::vector<float> matrix(long rows, long columns, long ld) {
  std::normal_distribution<float> normal;
  std::vector<float> m(rows * ld, 0.0f);
  for (long r = 0; r < rows; r++)
    for (long c = 0; c < columns; c++) m[r * ld + c] = normal(generator);
  return m;
}

void test_gemm() {
  for (long m : {1L, 2L, 7L, 12L, 13L, 25L, 31L})
    for (long n : {1L, 4L, 9L, 16L, 17L, 33L, 64L})
      for (long k : {1L, 3L, 16L, 37L})
        for (bool down : {false, true}) {
          const long ld = padded(n), lda = padded(down ? m : k);
          const auto a = down ? matrix(k, m, lda) : matrix(m, k, lda);
          const auto b = matrix(k, n, ld), bias = matrix(1, n, ld);
          const auto residual = matrix(m, n, ld), factor = matrix(m, n, ld);
          auto c = matrix(m, n, ld);
          const auto before = c;
          Epilogue e;
          e.bias = bias.data();
          e.residual = residual.data();
          e.residual_ld = ld;
          e.factor = factor.data();
          e.factor_ld = ld;
          e.add = true;
          gemm(m, n, k, a.data(), down ? 1 : lda, down ? lda : 1, b.data(), ld, c.data(), ld, e);
          for (long i = 0; i < m; i++)
            for (long j = 0; j < n; j++) {
              double sum = bias[j], size = std::fabs(bias[j]);
              for (long p = 0; p < k; p++) {
                const double x = (double)a[down ? p * lda + i : i * lda + p] * b[p * ld + j];
                sum += x;
                size += std::fabs(x);
              }
              const double f = factor[i * ld + j], r = residual[i * ld + j], o = before[i * ld + j];
              near("gemm", c[i * ld + j], sum * f + r + o,
                   size * std::fabs(f) * std::sqrt((double)k) + std::fabs(r) + std::fabs(o));
            }
        }
}

// bfloat16, ties to even
double rounded(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits = (bits + 0x7FFFu + ((bits >> 16) & 1u)) & 0xFFFF0000u;
  std::memcpy(&x, &bits, sizeof bits);
  return x;
}

// Products of rounded operands are exact in double: only the order of the sum is left.
void test_gemm_bf16() {
  for (long m : {1L, 13L, 30L})
    for (long n : {1L, 16L, 33L})
      for (long k : {1L, 2L, 31L, 32L, 50L}) {
        const long a_ld = padded(k), b_ld = padded(n), pair = pair_ld(k);
        const auto a = matrix(m, k, a_ld), b = matrix(k, n, b_ld);
        std::vector<float> c(m * b_ld);
        std::vector<uint32_t> rows(m * pair), columns(pairs(k) * b_ld), down(pairs(k) * padded(m));
        pack_rows(m, k, a.data(), a_ld, rows.data(), pair);
        pack_row_pairs(k, n, b.data(), b_ld, columns.data(), b_ld);
        const auto turned = [&] {  // A^T, to be read down its columns
          std::vector<float> t(k * padded(m));
          for (long i = 0; i < m; i++)
            for (long p = 0; p < k; p++) t[p * padded(m) + i] = a[i * a_ld + p];
          return t;
        }();
        pack_row_pairs(k, m, turned.data(), padded(m), down.data(), padded(m));
        for (bool by_column : {false, true}) {
          gemm<uint32_t>(m, n, pairs(k), by_column ? down.data() : rows.data(),
                         by_column ? 1 : pair, by_column ? padded(m) : 1, columns.data(), b_ld,
                         c.data(), b_ld);
          for (long i = 0; i < m; i++)
            for (long j = 0; j < n; j++) {
              double sum = 0, size = 0;
              for (long p = 0; p < k; p++) {
                const double x = rounded(a[i * a_ld + p]) * rounded(b[p * b_ld + j]);
                sum += x;
                size += std::fabs(x);
              }
              near("gemm bf16", c[i * b_ld + j], sum, size * std::sqrt((double)k));
            }
        }
      }
}

void test_activation() {
  for (int32_t kind : {RELU, GELU, GELU_TANH}) {
    std::vector<float> x(4096), slope(4096);
    for (size_t i = 0; i < x.size(); i++) x[i] = -9.0f + 18.0f * (float)i / 4096.0f;
    x[0] = -80.0f, x[1] = 80.0f, x[2] = 0.0f;
    const auto given = x;
    activate(kind, x.data(), slope.data(), (long)x.size());
    for (size_t i = 0; i < x.size(); i++) {
      const double v = given[i], u = std::sqrt(2.0 / M_PI) * (v + 0.044715 * v * v * v);
      const double phi = 0.5 * std::erfc(-v / std::sqrt(2.0)), t = std::tanh(u);
      double y = v > 0 ? v : 0, d = v > 0;
      if (kind == GELU) y = v * phi, d = phi + v * std::exp(-v * v / 2) / std::sqrt(2.0 * M_PI);
      if (kind == GELU_TANH)
        y = 0.5 * v * (1 + t), d = 0.5 * (1 + t) + 0.5 * v * (1 - t * t) * std::sqrt(2.0 / M_PI) *
                                                       (1 + 3 * 0.044715 * v * v);
      near("activation", x[i], y, std::fabs(v) + 1e-6);
      near("activation slope", slope[i], d, 1.0 + std::fabs(v));
    }
    std::vector<float> nan(W, std::numeric_limits<float>::quiet_NaN()), s(W);
    activate(kind, nan.data(), s.data(), W);
    expect(std::isnan(nan[0]), "activation of NaN", nan[0], NAN);
  }
}

void test_norm() {
  for (long d : {1L, 5L, 16L, 20L, 33L, 64L, 128L})
    for (long rows : {1L, 6L, 19L}) {
      const long ld = padded(d);
      const auto x = matrix(rows, d, ld), g = matrix(1, d, ld), b = matrix(1, d, ld);
      const auto dy = matrix(rows, d, ld);
      std::vector<float> y(rows * ld), saved(2 * rows), dx(rows * ld), dg(ld), db(ld);
      norm_forward(rows, d, 1e-5f, x.data(), ld, g.data(), b.data(), y.data(), ld, saved.data());
      norm_backward(rows, d, x.data(), ld, g.data(), dy.data(), ld, saved.data(), dx.data(), ld,
                    false, dg.data(), db.data());
      std::vector<double> want_g(d), want_b(d);
      for (long r = 0; r < rows; r++) {
        double mean = 0, var = 0, m1 = 0, m2 = 0;
        for (long j = 0; j < d; j++) mean += x[r * ld + j] / (double)d;
        for (long j = 0; j < d; j++) var += std::pow(x[r * ld + j] - mean, 2) / (double)d;
        const double rstd = 1 / std::sqrt(var + 1e-5);
        auto hat = [&](long j) { return (x[r * ld + j] - mean) * rstd; };
        for (long j = 0; j < d; j++) {
          m1 += (double)dy[r * ld + j] * g[j] / (double)d;
          m2 += (double)dy[r * ld + j] * g[j] * hat(j) / (double)d;
          want_g[j] += dy[r * ld + j] * hat(j);
          want_b[j] += dy[r * ld + j];
        }
        for (long j = 0; j < d; j++) {
          near("norm", y[r * ld + j], hat(j) * g[j] + b[j], 10 + 10 * rstd);
          near("norm dx", dx[r * ld + j], rstd * (dy[r * ld + j] * g[j] - m1 - hat(j) * m2),
               10 + 50 * rstd);
        }
      }
      for (long j = 0; j < d; j++) {
        near("norm dg", dg[j], want_g[j], 50);
        near("norm db", db[j], want_b[j], 50);
      }
      // Rows go through in groups; a row's bits are those that it has by itself.
      for (long r = 0; r < rows; r++) {
        std::vector<float> own(ld), own_dx(ld), own_saved(2);
        norm_forward(1, d, 1e-5f, x.data() + r * ld, ld, g.data(), b.data(), own.data(), ld,
                     own_saved.data());
        norm_backward(1, d, x.data() + r * ld, ld, g.data(), dy.data() + r * ld, ld,
                      own_saved.data(), own_dx.data(), ld, false, dg.data(), db.data());
        for (long j = 0; j < d; j++) {
          expect(own[j] == y[r * ld + j], "norm of a row alone", own[j], y[r * ld + j]);
          expect(own_dx[j] == dx[r * ld + j], "norm dx of a row alone", own_dx[j], dx[r * ld + j]);
        }
      }
    }
}

// Row i of query, at position i + t - t_q; probabilities in double.
std::vector<double> probabilities(const AttentionShape& s, const std::vector<float>& q, long ldq,
                                  const std::vector<float>& k, long ldk, long h, long i) {
  const long seen = s.causal ? i + s.t - s.t_q + 1 : s.t;
  std::vector<double> p(s.t, 0.0);
  double sum = 0;
  for (long j = 0; j < seen; j++) {
    double z = 0;
    for (long c = 0; c < s.d_k; c++)
      z += (double)q[i * ldq + h * s.d_k + c] * k[j * ldk + h * s.d_k + c];
    sum += p[j] = std::exp(z * s.scale);
  }
  for (double& x : p) x /= sum;
  return p;
}

void check_attention(const AttentionShape& s) {
  const long t = s.t, heads = s.heads;
  const long lq = padded(heads * s.d_k), lv = padded(heads * s.d_v), slack = W;
  auto q = matrix(s.t_q, heads * s.d_k, lq), k = matrix(t, heads * s.d_k, lq);
  auto v = matrix(t, heads * s.d_v, lv), d_o = matrix(s.t_q, heads * s.d_v, lv);
  // a whole vector may be read past a head's last column
  for (auto* m : {&q, &k, &v, &d_o}) m->resize(m->size() + slack);
  std::vector<float> o(d_o.size()), dq(q.size()), dk(k.size()), dv(v.size());
  std::vector<float> p(heads * s.t_q * attention_saved_row(t));
  const long scratch = attention_room(s.t_q, t, s.d_k, s.d_v);
  std::vector<float> work(scratch, std::numeric_limits<float>::quiet_NaN());
  attention_forward(s, q.data(), lq, k.data(), lq, v.data(), lv, o.data(), lv, p.data(),
                    work.data());
  attention_backward(s, q.data(), lq, k.data(), lq, v.data(), lv, o.data(), d_o.data(), lv,
                     p.data(), dq.data(), lq, dk.data(), lq, dv.data(), lv, work.data());
  for (long h = 0; h < heads; h++) {
    std::vector<double> want_dk(t * s.d_k), want_dv(t * s.d_v);
    for (long i = 0; i < s.t_q; i++) {
      const auto pi = probabilities(s, q, lq, k, lq, h, i);
      std::vector<double> dp(t, 0.0);
      double mean = 0;
      for (long c = 0; c < s.d_v; c++) {
        double want = 0;
        const double grad = d_o[i * lv + h * s.d_v + c];
        for (long j = 0; j < t; j++) {
          want += pi[j] * v[j * lv + h * s.d_v + c];
          dp[j] += grad * v[j * lv + h * s.d_v + c];
          want_dv[j * s.d_v + c] += pi[j] * grad;
        }
        near("attention", o[i * lv + h * s.d_v + c], want, 20);
      }
      for (long j = 0; j < t; j++) mean += pi[j] * dp[j];
      for (long c = 0; c < s.d_k; c++) {
        double want = 0;
        for (long j = 0; j < t; j++) {
          const double ds = pi[j] * (dp[j] - mean) * s.scale;
          want += ds * k[j * lq + h * s.d_k + c];
          want_dk[j * s.d_k + c] += ds * q[i * lq + h * s.d_k + c];
        }
        near("attention dq", dq[i * lq + h * s.d_k + c], want, 50);
      }
    }
    for (long j = 0; j < t; j++) {
      for (long c = 0; c < s.d_k; c++)
        near("attention dk", dk[j * lq + h * s.d_k + c], want_dk[j * s.d_k + c], 50);
      for (long c = 0; c < s.d_v; c++)
        near("attention dv", dv[j * lv + h * s.d_v + c], want_dv[j * s.d_v + c], 50);
    }
  }
}

// Widths of whole vectors take the way of attention_lone.h where there is one query row.
void test_attention() {
  for (long t : {1L, 5L, 9L, 16L, 17L, 36L, 128L})
    for (long heads : {1L, 3L})
      for (bool last : {false, true})
        for (bool causal : {false, true}) {
          check_attention({last ? 1 : t, t, heads, 7, 5, causal, 0.37f});
          check_attention({last ? 1 : t, t, heads, 48, 16, causal, 0.37f});
          check_attention({last ? (t + 3) / 4 : t, t, heads, 3, 4, causal, 0.37f});
        }
}

// k = v in one buffer: the second gradient is added to the first, and both to what was there.
void check_attention_adds(long rows, long d) {
  const long t = 9, ld = padded(d);
  AttentionShape s{rows, t, 1, d, d, false, 0.37f};
  auto q = matrix(s.t_q, d, ld), h = matrix(t, d, ld), d_o = matrix(s.t_q, d, ld);
  for (auto* m : {&q, &h, &d_o}) m->resize(m->size() + W);
  std::vector<float> o(d_o.size()), dq(q.size()), dk(h.size()), dv(h.size());
  std::vector<float> p(s.t_q * padded(t)), work(2000, std::numeric_limits<float>::quiet_NaN());
  attention_forward(s, q.data(), ld, h.data(), ld, h.data(), ld, o.data(), ld, p.data(),
                    work.data());
  attention_backward(s, q.data(), ld, h.data(), ld, h.data(), ld, o.data(), d_o.data(), ld,
                     p.data(), dq.data(), ld, dk.data(), ld, dv.data(), ld, work.data());
  s.add_dk = s.add_dv = true;
  auto both = matrix(t, d, ld);
  const auto before = both;
  attention_backward(s, q.data(), ld, h.data(), ld, h.data(), ld, o.data(), d_o.data(), ld,
                     p.data(), dq.data(), ld, both.data(), ld, both.data(), ld, work.data());
  for (long i = 0; i < t * ld; i++) {
    const double want = (double)before[i] + dk[i] + dv[i];
    near("attention added", both[i], want,
         std::fabs(before[i]) + std::fabs(dk[i]) + std::fabs(dv[i]));
  }
}

void test_attention_adds() {
  check_attention_adds(3, 7);
  check_attention_adds(3, 32);
  check_attention_adds(1, 32);
}

}  // namespace

#include "mixed_test.h"  // takes what stands above

namespace {

void test_head_linear() {
  for (long heads : {1L, 3L})
    for (long width : {1L, 5L, 16L})
      for (long d : {3L, 20L, 32L})
        for (bool narrowing : {true, false}) {
          const long n = 5, w_ld = padded(d), thin = heads * width, wide = heads * d;
          const long in = narrowing ? wide : thin, out = narrowing ? thin : wide;
          compfast::OpRecord op;
          op.heads = (int32_t)heads;
          op.head_width = (int32_t)width;
          op.narrow = narrowing;
          op.d_in = (int32_t)d;
          op.d_out = (int32_t)thin;
          op.weight = 0;
          op.weight_ld = (int32_t)w_ld;
          op.packed = 0;
          op.packed_ld = (int32_t)padded(thin);
          op.packed_bias = d * op.packed_ld;
          op.bias = thin * w_ld;
          op.in[0].value = 0;
          op.in[0].rows = op.out.rows = 1;
          op.in[0].ld = (int32_t)padded(in);
          op.out.ld = (int32_t)padded(out);
          op.out.value = n * op.in[0].ld + W;
          op.in[0].grad = op.out.value + n * op.out.ld + W;
          op.out.grad = op.in[0].grad + n * op.in[0].ld + W;
          auto params = matrix(thin, d, w_ld);
          const auto bias = matrix(1, thin, padded(thin));
          params.insert(params.end(), bias.begin(), bias.end());
          std::vector<float> packed(op.packed_bias + op.packed_ld + W);
          linear_pack(op, params.data(), packed.data(), nullptr);
          std::vector<float> values(op.out.grad + n * op.out.ld + W);
          const auto x = matrix(n, in, op.in[0].ld), dy = matrix(n, out, op.out.ld);
          std::copy(x.begin(), x.end(), values.begin());
          std::copy(dy.begin(), dy.end(), values.begin() + op.out.grad);
          std::vector<float> work(n * 48, std::numeric_limits<float>::quiet_NaN());
          auto gradient = matrix(thin, d, w_ld);
          gradient.resize(params.size(), 1.0f);
          const auto before = gradient;
          head_linear_forward(op, n, params.data(), packed.data(), values.data(), work.data());
          head_linear_backward(op, n, params.data(), packed.data(), values.data(), gradient.data(),
                               work.data());
          // thin side and wide side of each direction
          const auto& a = narrowing ? dy : x;
          const auto& b = narrowing ? x : dy;
          const long a_ld = padded(thin), b_ld = padded(wide);
          const long narrowed = narrowing ? op.out.value : op.in[0].grad;
          const long widened = narrowing ? op.in[0].grad : op.out.value;
          for (long h = 0; h < heads; h++)
            for (long i = 0; i < width; i++) {
              const long row = h * width + i;
              for (long r = 0; r < n; r++) {
                double want = narrowing ? bias[row] : 0;
                for (long j = 0; j < d; j++)
                  want += (double)params[row * w_ld + j] * b[r * b_ld + h * d + j];
                near("narrow", values[narrowed + r * a_ld + row], want, 100);
              }
              for (long j = 0; j < w_ld; j++) {
                double want = before[row * w_ld + j];
                if (j < d)
                  for (long r = 0; r < n; r++)
                    want += (double)a[r * a_ld + row] * b[r * b_ld + h * d + j];
                near("head weight gradient", gradient[row * w_ld + j], want, j < d ? 50 : 0);
              }
              double sum = 1;
              for (long r = 0; r < n; r++) sum += narrowing ? a[r * a_ld + row] : 0;
              near("head bias gradient", gradient[op.bias + row], sum, narrowing ? 20 : 0);
            }
          for (long h = 0; h < heads; h++)
            for (long r = 0; r < n; r++)
              for (long j = 0; j < d; j++) {
                double want = 0;
                for (long i = 0; i < width; i++)
                  want += (double)params[(h * width + i) * w_ld + j] * a[r * a_ld + h * width + i];
                near("widen", values[widened + r * b_ld + h * d + j], want, 50);
              }
        }
}

void test_cross_entropy() {
  for (long v : {1L, 2L, 16L, 23L, 112L}) {
    const long ld = padded(v);
    const auto z = matrix(1, v, ld);
    std::vector<float> dz(ld, 0.0f);
    const int32_t target = (int32_t)(v / 2);
    const double loss = cross_entropy(v, z.data(), target, 0.25f, dz.data());
    double sum = 0;
    for (long j = 0; j < v; j++) sum += std::exp((double)z[j]);
    near("cross entropy", loss, std::log(sum) - z[target], 5);
    for (long j = 0; j < ld; j++) {
      const double want = j < v ? (std::exp((double)z[j]) / sum - (j == target)) * 0.25 : 0.0;
      near("cross entropy gradient", dz[j], want, 1);
    }
  }
}

void test_cross_entropy_of_bad_logits() {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    auto z = matrix(1, 23, padded(23));
    std::vector<float> dz(padded(23), 0.0f);
    z[20] = bad;
    const double loss = cross_entropy(23, z.data(), 3, 1.0f, dz.data());
    expect(!std::isfinite(loss), "loss of a bad logit", loss, NAN);
  }
}

void test_adamw() {
  const long n = 96;
  auto p = matrix(1, n, n), g = matrix(1, n, n), m = matrix(1, n, n), v = matrix(1, n, n);
  for (float& x : v) x *= x;
  const auto p0 = p, m0 = m, v0 = v;
  double squares = 0;
  for (float x : g) squares += (double)x * x;
  near("gradient norm", gradient_norm(g.data(), n), std::sqrt(squares), std::sqrt(squares));
  const AdamW a{0.5f, 0.99f, 1e-3f, 1.7f, 0.9f, 0.1f, 0.999f, 0.001f, 1e-8f};
  adamw(a, n, g.data(), p.data(), m.data(), v.data());
  for (long i = 0; i < n; i++) {
    const double grad = g[i] * 0.5, mi = 0.9f * (double)m0[i] + 0.1f * grad;
    const double vi_ = 0.999f * (double)v0[i] + 0.001f * grad * grad;
    near("adamw m", m[i], mi, std::fabs(mi) + std::fabs(grad));
    near("adamw v", v[i], vi_, vi_ + grad * grad);
    near("adamw p", p[i], p0[i] * 0.99f - 1e-3f * mi / (std::sqrt(vi_) * 1.7f + 1e-8f),
         std::fabs(p0[i]) + 1e-3);
  }
}

void test_sgd(float momentum, bool nesterov) {
  const long n = 96;
  auto p = matrix(1, n, n), g = matrix(1, n, n), b = matrix(1, n, n);
  const auto p0 = p, b0 = b;
  sgd({0.5f, 0.99f, 1e-2f, momentum, nesterov}, n, g.data(), p.data(), b.data());
  for (long i = 0; i < n; i++) {
    const double grad = g[i] * 0.5, buffer = momentum * (double)b0[i] + grad;
    near("sgd buffer", b[i], momentum == 0 ? b0[i] : buffer, std::fabs(b0[i]) + std::fabs(grad));
    const double move = momentum == 0 ? grad : nesterov ? grad + momentum * buffer : buffer;
    near("sgd p", p[i], p0[i] * 0.99f - 1e-2f * move, std::fabs(p0[i]) + std::fabs(move));
  }
}

}  // namespace

int main() {
  test_gemm();
  test_gemm_bf16();
  test_activation();
  test_norm();
  test_attention();
  test_attention_adds();
  test_mixed();
  test_head_linear();
  test_cross_entropy();
  test_cross_entropy_of_bad_logits();
  test_adamw();
  test_sgd(0.0f, false);
  test_sgd(0.9f, false);
  test_sgd(0.9f, true);
  std::printf("%d lanes: %d failures\n", W, failures);
  return failures != 0;
}
