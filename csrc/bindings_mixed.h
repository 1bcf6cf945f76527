// Generalised attention as a single op of compfast._native; part of bindings_ops.cpp.
#pragma once

#include "bindings_members.h"

namespace compfast {

namespace {

struct MixedSizes {
  MixedSizes(int64_t members, const MixedDims& a)
      : q(elements("q", {members, a.sequences, a.queries, a.heads, a.d_k}) / members),
        k(elements("k", {members, a.sequences, a.positions, a.heads, a.d_k}) / members),
        v(elements("v", {members, a.sequences, a.positions, a.heads, a.d_v}) / members),
        o(elements("o", {members, a.sequences, a.queries, a.heads, a.d_v}) / members),
        relative(elements("relative", {members, a.heads, 2 * a.positions - 1}) / members),
        keep(elements("keep", {members, a.queries, a.positions}) / members),
        deep(a.path == MIXED_VALUE_DEEP
                 ? elements("deep", {members, a.heads, a.d_v, a.d_v}) / members
                 : 0),
        work(times(times(a.sequences * a.queries, a.heads * to_pad(a.positions)),
                   times(a.d_k + 2 * a.d_v + 8, deep ? a.d_v : 1))) {
    require_between("queries", a.queries, 1, a.positions);
    require_between("weights", a.weights, MIXED_SOFTMAX, MIXED_RMS_HEAD);
    require_between("path", a.path, MIXED_NONE, MIXED_VALUE_DEEP);
    if (!(a.epsilon > 0)) refuse("epsilon is not above 0");
  }
  int64_t q, k, v, o, relative, keep, deep, work;
};

void mixed_forward(int64_t members, int64_t sequences, int64_t queries, int64_t positions,
                   int64_t heads, int64_t d_k, int64_t d_v, bool causal, int weights, int path,
                   float epsilon, int threads, Address q, Address k, Address v, Address relative,
                   Address keep, Address deep, Address o) {
  const OpTable& ops = table();
  const MixedDims a{sequences, queries, positions, heads, d_k, d_v, causal, weights, path, epsilon};
  const MixedSizes n(members, a);
  require_tensors<float>({{"q", q}, {"k", k}, {"v", v}, {"o", o}});
  if (n.deep) require_tensors<float>({{"deep", deep}});
  over_members(members, n.work, threads, mixed_scratch(a), [&](int64_t m, float* scratch) {
    ops.mixed_forward(a, at(in(q), m, n.q), at(in(k), m, n.k), at(in(v), m, n.v),
                      at(in(relative), m, n.relative), at(in(keep), m, n.keep),
                      at(in(n.deep ? deep : 0), m, n.deep), at(out(o), m, n.o), scratch);
  });
}

void mixed_backward(int64_t members, int64_t sequences, int64_t queries, int64_t positions,
                    int64_t heads, int64_t d_k, int64_t d_v, bool causal, int weights, int path,
                    float epsilon, int threads, Address q, Address k, Address v, Address relative,
                    Address keep, Address deep, Address d_o, Address dq, Address dk, Address dv,
                    Address d_relative, Address d_deep) {
  const OpTable& ops = table();
  const MixedDims a{sequences, queries, positions, heads, d_k, d_v, causal, weights, path, epsilon};
  const MixedSizes n(members, a);
  require_tensors<float>({{"q", q}, {"k", k}, {"v", v}, {"d_o", d_o}});
  require_tensors<float>({{"dq", dq}, {"dk", dk}, {"dv", dv}});
  if (relative) require_tensors<float>({{"d_relative", d_relative}});
  if (n.deep) require_tensors<float>({{"deep", deep}, {"d_deep", d_deep}});
  over_members(members, 3 * n.work, threads, mixed_scratch(a), [&](int64_t m, float* scratch) {
    ops.mixed_backward(a, at(in(q), m, n.q), at(in(k), m, n.k), at(in(v), m, n.v),
                       at(in(relative), m, n.relative), at(in(keep), m, n.keep),
                       at(in(n.deep ? deep : 0), m, n.deep), at(in(d_o), m, n.o),
                       at(out(dq), m, n.q), at(out(dk), m, n.k), at(out(dv), m, n.v),
                       at(out(d_relative), m, n.relative), at(out(d_deep), m, n.deep), scratch);
  });
}

}  // namespace

}  // namespace compfast
