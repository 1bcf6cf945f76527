// Addresses of dense row-major tensors with members first, sizes, threads: shapes and types are
// checked in compfast/ops; here sizes, indices and that no address is missing (0).
#include "bindings_ops.h"

#include <cmath>

#include "bindings_members.h"
#include "bindings_mixed.h"
#include "init.h"
#include "philox.h"

namespace py = pybind11;

namespace compfast {

namespace {

void check_linear(int64_t members, const LinearShape& s) {
  require_between("d_in", s.d_in, 1, MOST_WIDTH);
  require_between("d_out", s.d_out, 1, MOST_WIDTH);
  elements("x", {members, s.rows, s.d_in});
  elements("w", {members, s.d_out, s.d_in});
  elements("y", {members, s.rows, s.d_out});
  require_between("activation", s.activation, 0, 3);
}

void linear_forward(int64_t members, int64_t rows, int64_t d_in, int64_t d_out, int activation,
                    bool bf16, int threads, Address x, Address w, Address b, Address y,
                    Address slope) {
  const OpTable& ops = table();
  const LinearShape s{rows, d_in, d_out, activation, bf16};
  check_linear(members, s);
  require_tensors<float>({{"x", x}, {"w", w}, {"y", y}});
  if (activation != 0) require_tensors<float>({{"slope", slope}});
  over_members(members, times(rows, d_in * d_out), threads, linear_scratch(s),
               [&](int64_t m, float* scratch) {
                 ops.linear_forward(s, at(in(x), m, rows * d_in), at(in(w), m, d_out * d_in),
                                    at(in(b), m, d_out), at(out(y), m, rows * d_out),
                                    at(out(slope), m, rows * d_out), scratch);
               });
}

void linear_backward(int64_t members, int64_t rows, int64_t d_in, int64_t d_out, int activation,
                     bool bf16, int threads, Address x, Address w, Address slope, Address dy,
                     Address dx, Address dw, Address db) {
  const OpTable& ops = table();
  const LinearShape s{rows, d_in, d_out, activation, bf16};
  check_linear(members, s);
  require_tensors<float>({{"x", x}, {"w", w}, {"dy", dy}, {"dx", dx}, {"dw", dw}});
  if (activation != 0) require_tensors<float>({{"slope", slope}});
  over_members(members, times(2 * rows, d_in * d_out), threads, linear_scratch(s),
               [&](int64_t m, float* scratch) {
                 ops.linear_backward(s, at(in(x), m, rows * d_in), at(in(w), m, d_out * d_in),
                                     at(in(slope), m, rows * d_out), at(in(dy), m, rows * d_out),
                                     at(out(dx), m, rows * d_in), at(out(dw), m, d_out * d_in),
                                     at(out(db), m, d_out), scratch);
               });
}

void check_norm(int64_t members, const NormShape& s) {
  require_between("d", s.d, 1, MOST_WIDTH);
  elements("x", {members, s.rows, s.d});
}

void norm_forward(int64_t members, int64_t rows, int64_t d, float eps, int threads, Address x,
                  Address g, Address b, Address y, Address saved) {
  const OpTable& ops = table();
  const NormShape s{rows, d, eps};
  check_norm(members, s);
  require_tensors<float>({{"x", x}, {"weight", g}, {"bias", b}, {"y", y}, {"saved", saved}});
  over_members(members, 4 * rows * d, threads, norm_scratch(s), [&](int64_t m, float* scratch) {
    ops.norm_forward(s, at(in(x), m, rows * d), at(in(g), m, d), at(in(b), m, d),
                     at(out(y), m, rows * d), at(out(saved), m, rows * 2), scratch);
  });
}

void norm_backward(int64_t members, int64_t rows, int64_t d, int threads, Address x, Address g,
                   Address dy, Address saved, Address dx, Address dg, Address db) {
  const OpTable& ops = table();
  const NormShape s{rows, d, 0};
  check_norm(members, s);
  require_tensors<float>({{"x", x}, {"weight", g}, {"dy", dy}, {"saved", saved}});
  require_tensors<float>({{"dx", dx}, {"dw", dg}, {"db", db}});
  over_members(members, 8 * rows * d, threads, norm_scratch(s), [&](int64_t m, float* scratch) {
    ops.norm_backward(s, at(in(x), m, rows * d), at(in(g), m, d), at(in(dy), m, rows * d),
                      at(in(saved), m, rows * 2), at(out(dx), m, rows * d), at(out(dg), m, d),
                      at(out(db), m, d), scratch);
  });
}

struct AttentionSizes {
  AttentionSizes(int64_t members, const AttentionDims& a)
      : q(elements("q", {members, a.sequences, a.positions, a.heads, a.d_k}) / members),
        v(elements("v", {members, a.sequences, a.positions, a.heads, a.d_v}) / members),
        saved(elements("saved", {members, a.sequences, a.heads, a.positions,
                                 attention_saved_row(a.positions)}) /
              members),
        work(times(a.sequences * a.heads * a.positions,
                   times(to_pad(a.positions), a.d_k + a.d_v + 8))) {}
  int64_t q, v, saved, work;
};

void attention_forward(int64_t members, int64_t sequences, int64_t positions, int64_t heads,
                       int64_t d_k, int64_t d_v, bool causal, int threads, Address q, Address k,
                       Address v, Address o, Address saved) {
  const OpTable& ops = table();
  const AttentionDims a{sequences, positions, heads, d_k, d_v, causal};
  const AttentionSizes n(members, a);
  require_tensors<float>({{"q", q}, {"k", k}, {"v", v}, {"o", o}, {"saved", saved}});
  over_members(members, n.work, threads, attention_scratch(a), [&](int64_t m, float* scratch) {
    ops.attention_forward(a, at(in(q), m, n.q), at(in(k), m, n.q), at(in(v), m, n.v),
                          at(out(o), m, n.v), at(out(saved), m, n.saved), scratch);
  });
}

void attention_backward(int64_t members, int64_t sequences, int64_t positions, int64_t heads,
                        int64_t d_k, int64_t d_v, bool causal, int threads, Address q, Address k,
                        Address v, Address o, Address saved, Address d_o, Address dq, Address dk,
                        Address dv) {
  const OpTable& ops = table();
  const AttentionDims a{sequences, positions, heads, d_k, d_v, causal};
  const AttentionSizes n(members, a);
  require_tensors<float>({{"q", q}, {"k", k}, {"v", v}, {"o", o}, {"saved", saved}, {"d_o", d_o}});
  require_tensors<float>({{"dq", dq}, {"dk", dk}, {"dv", dv}});
  over_members(members, 2 * n.work, threads, attention_scratch(a), [&](int64_t m, float* scratch) {
    ops.attention_backward(a, at(in(q), m, n.q), at(in(k), m, n.q), at(in(v), m, n.v),
                           at(in(o), m, n.v), at(in(saved), m, n.saved), at(in(d_o), m, n.v),
                           at(out(dq), m, n.q), at(out(dk), m, n.q), at(out(dv), m, n.v), scratch);
  });
}

void cross_entropy(int64_t members, int64_t rows, int64_t vocabulary, int threads, Address logits,
                   Address targets, Address loss, Address d_logits) {
  const OpTable& ops = table();
  const int64_t size = elements("logits", {members, rows, vocabulary}) / members;
  require_tensors<float>({{"logits", logits}, {"loss", loss}, {"d_logits", d_logits}});
  const std::vector<int32_t> y = indices(targets, members * rows, vocabulary, "target");
  over_members(members, 16 * size, threads, cross_entropy_scratch(vocabulary),
               [&](int64_t m, float* scratch) {
                 out(loss)[m] =
                     ops.cross_entropy(rows, vocabulary, at(in(logits), m, size),
                                       y.data() + m * rows, at(out(d_logits), m, size), scratch);
               });
}

void activation(int64_t members, int64_t count, int kind, int threads, Address x, Address y,
                Address slope) {
  const OpTable& ops = table();
  elements("x", {members, count});
  require_between("activation", kind, 1, 3);
  require_tensors<float>({{"x", x}, {"y", y}, {"slope", slope}});
  over_members(members, 16 * count, threads, 0, [&](int64_t m, float*) {
    ops.activation(kind, count, at(in(x), m, count), at(out(y), m, count),
                   at(out(slope), m, count));
  });
}

void check_embed(int64_t members, const EmbedShape& s, int64_t table_positions) {
  require_between("d", s.d, 1, MOST_WIDTH);
  elements("x", {members, s.sequences, s.positions, s.d});
  elements("token_table", {members, s.vocabulary, s.d});
  elements("position_table", {members, table_positions, s.d});
  require_between("positions", s.positions, 1, table_positions);
}

void embed_forward(int64_t members, int64_t sequences, int64_t positions, int64_t d,
                   int64_t vocabulary, int64_t table_positions, int threads, Address tokens,
                   Address token_table, Address position_table, Address x) {
  const OpTable& ops = table();
  const EmbedShape s{sequences, positions, d, vocabulary};
  check_embed(members, s, table_positions);
  require_tensors<float>({{"token_table", token_table}, {"position_table", position_table}});
  require_tensors<float>({{"x", x}});
  const int64_t rows = sequences * positions;
  const std::vector<int32_t> t = indices(tokens, members * rows, vocabulary, "token");
  over_members(members, rows * d, threads, embed_scratch(s), [&](int64_t m, float* scratch) {
    ops.embed_forward(s, t.data() + m * rows, at(in(token_table), m, vocabulary * d),
                      at(in(position_table), m, table_positions * d), at(out(x), m, rows * d),
                      scratch);
  });
}

// The gradients of positions that no sequence reaches are left as they are: the caller's zeros.
void embed_backward(int64_t members, int64_t sequences, int64_t positions, int64_t d,
                    int64_t vocabulary, int64_t table_positions, int threads, Address tokens,
                    Address dx, Address d_token_table, Address d_position_table) {
  const OpTable& ops = table();
  const EmbedShape s{sequences, positions, d, vocabulary};
  check_embed(members, s, table_positions);
  require_tensors<float>({{"dx", dx}, {"d_token_table", d_token_table}});
  require_tensors<float>({{"d_position_table", d_position_table}});
  const int64_t rows = sequences * positions;
  const std::vector<int32_t> t = indices(tokens, members * rows, vocabulary, "token");
  over_members(members, rows * d, threads, embed_scratch(s), [&](int64_t m, float* scratch) {
    ops.embed_backward(s, t.data() + m * rows, at(in(dx), m, rows * d),
                       at(out(d_token_table), m, vocabulary * d),
                       at(out(d_position_table), m, table_positions * d), scratch);
  });
}

// lr, weight_decay, clip: float64 [M]; step: int64 [M], 1-based.
void adamw(int64_t members, int64_t count, double beta1, double beta2, double eps, int threads,
           Address gradient, Address params, Address m, Address v, Address lr, Address weight_decay,
           Address clip, Address step) {
  const OpTable& ops = table();
  elements("params", {members, count});
  require_tensors<float>({{"grads", gradient}, {"params", params}, {"m", m}, {"v", v}});
  require_tensors<double>({{"lr", lr}, {"weight_decay", weight_decay}, {"clip", clip}});
  require_tensors<int64_t>({{"step", step}});
  for (int64_t i = 0; i < members; i++)
    require_between("step", reinterpret_cast<const int64_t*>(step)[i], 1, MOST_BLOCKS);
  over_members(members, 4 * count, threads, 0, [&](int64_t i, float*) {
    AdamWSettings o{
        number_of(lr, i), number_of(weight_decay, i), number_of(clip, i), 0, 0, beta1, beta2, eps};
    const double t = (double)reinterpret_cast<const int64_t*>(step)[i];
    o.correction1 = 1.0 - std::pow(beta1, t);
    o.correction2 = 1.0 - std::pow(beta2, t);
    ops.adamw(o, count, at(in(gradient), i, count), at(out(params), i, count), at(out(m), i, count),
              at(out(v), i, count));
  });
}

// lr, weight_decay, clip: float64 [M].
void sgd(int64_t members, int64_t count, double momentum, bool nesterov, int threads,
         Address gradient, Address params, Address buffer, Address lr, Address weight_decay,
         Address clip) {
  const OpTable& ops = table();
  elements("params", {members, count});
  require_tensors<float>({{"grads", gradient}, {"params", params}, {"momentum_buffer", buffer}});
  require_tensors<double>({{"lr", lr}, {"weight_decay", weight_decay}, {"clip", clip}});
  over_members(members, 4 * count, threads, 0, [&](int64_t i, float*) {
    const SgdSettings o{number_of(lr, i), number_of(weight_decay, i), number_of(clip, i), momentum,
                        nesterov};
    ops.sgd(o, count, at(in(gradient), i, count), at(out(params), i, count),
            at(out(buffer), i, count));
  });
}

// Words [start, start + count) of each seed's stream, int64 [M, count].
void philox_words(int64_t members, uint32_t purpose, uint32_t step, uint32_t sub, int64_t start,
                  int64_t count, int threads, Address seeds, Address words) {
  elements("words", {members, count});
  require_between("start", start, 0, MOST_WORDS - 1);
  require_between("count", count, 1, MOST_WORDS - start);
  require_tensors<int64_t>({{"seeds", seeds}, {"words", words}});
  over_members(members, 40 * count, threads, 0, [&](int64_t m, float*) {
    const uint64_t seed = reinterpret_cast<const uint64_t*>(seeds)[m];
    int64_t* to = reinterpret_cast<int64_t*>(words) + m * count;
    Block block{};
    for (int64_t i = 0; i < count; i++) {
      const int64_t word = start + i;
      if (i == 0 || word % 4 == 0)
        block = philox({{(uint32_t)(word / 4), step, purpose, sub}}, seed);
      to[i] = block.word[word % 4];
    }
  });
}

// A tensor's initial weights: out [M, rows, columns] with `stride` floats from member to member
// and `ld` from row to row; seeds uint64 [M], std float64 [M].
void normals(int64_t members, int64_t rows, int64_t columns, int64_t stride, int64_t ld,
             uint32_t tensor, int threads, Address seeds, Address std, Address weights) {
  const int64_t count = elements("a tensor's elements", {rows, columns}, MOST_WORDS);
  require_between("ld", ld, columns, MOST_ELEMENTS);
  require_between("stride", stride, times(rows - 1, ld) + columns, MOST_ELEMENTS);
  elements("weights", {members, stride});
  require_tensors<double>({{"seeds", seeds}, {"std", std}});
  require_tensors<float>({{"weights", weights}});
  over_members(members, 40 * count, threads, 0, [&](int64_t m, float*) {
    const uint64_t seed = reinterpret_cast<const uint64_t*>(seeds)[m];
    fill_normal(seed, tensor, number_of(std, m), rows, columns, ld, out(weights) + m * stride);
  });
}

}  // namespace

void bind_ops(py::module_& m) {
  m.def("poison_scratch", [](bool on) { poisoned = on; });
  m.def("linear_forward", &linear_forward);
  m.def("linear_backward", &linear_backward);
  m.def("norm_forward", &norm_forward);
  m.def("norm_backward", &norm_backward);
  m.def("attention_forward", &attention_forward);
  m.def("attention_backward", &attention_backward);
  m.def("mixed_forward", &mixed_forward);
  m.def("mixed_backward", &mixed_backward);
  m.def("cross_entropy", &cross_entropy);
  m.def("activation", &activation);
  m.def("embed_forward", &embed_forward);
  m.def("embed_backward", &embed_backward);
  m.def("adamw", &adamw);
  m.def("sgd", &sgd);
  m.def("philox_words", &philox_words);
  m.def("normals", &normals);
}

}  // namespace compfast
