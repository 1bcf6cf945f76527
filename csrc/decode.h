// Greedy decoding of some prompts by one member: row by row of a plan with one position a
// sequence, keys and values of the earlier ones in a cache. Rows are tokens of different prompts at
// any positions: a prompt's own, then the likeliest that followed, until `end` or `max_new`. A
// sequence that ends leaves its row to the next prompt. Every kernel computes a row by itself, so
// who stands beside it, and in which order, changes no bit.
// A row's attention is attention_mixed.h's for one query. Its cache: keys in the lanes, k and v
// columns [heads * d, ld], zero from the last key to the next multiple of PAD.
#pragma once

#include "decode_sizes.h"
#include "passes.h"

namespace {

using namespace compfast;

// relative [heads, ld]: entry j is the bias of key j seen from position length - 1, which entry
// j + 1 is too of key j seen from the position before.
inline void decode_relative_pack(const OpRecord& op, const float* params,
                                 const PromptRecord& prompts, float* relative) {
  const long ld = decode_relative_ld(prompts.length);
  for (long h = 0; h < op.heads; h++)
    for (long j = 0; j < prompts.length; j++)
      relative[h * ld + j] = params[op.weight + h * op.weight_ld + prompts.buckets[j]];
}

// What every step reads of the member's weights.
inline void decode_pack(const PlanRecord& plan, const float* params, const PromptRecord& prompts,
                        const DecodeMemory& m) {
  float* relative = m.relative;
  for (int i = 0; i < plan.op_count; i++) {
    const OpRecord& op = plan.ops[i];
    if (op.kind == OP_LINEAR) linear_pack(op, params, m.packed, m.values + op.operands);
    if (!attends(op) || op.weight < 0) continue;
    decode_relative_pack(op, params, prompts, relative);
    relative += op.heads * decode_relative_ld(prompts.length);
  }
}

// Column `at` of [columns, ld] <- row
inline void decode_append(const float* row, long columns, long at, long ld, float* cache) {
  if (at % PAD == 0)
    for (long c = 0; c < columns; c++) std::memset(cache + c * ld + at, 0, PAD * sizeof(float));
  for (long c = 0; c < columns; c++) cache[c * ld + at] = row[c];
}

// Keys and values of `live` rows go to their places at `offset`; the first `asked` of them attend.
inline void decode_attention(const OpRecord& op, const float* params, const float* relative,
                             const PromptRecord& prompts, long each, long offset, long live,
                             long asked, const DecodeMemory& m) {
  MixedShape shape = mixed_shape(op);
  shape.t = prompts.length;
  MixedRoom room(shape, m.scratch);
  const ViewRecord &q = op.in[0], &k = op.in[1], &v = op.in[2];
  const long keys = (long)op.heads * op.d_k, values = (long)op.heads * op.d_v;
  const MixedDeep deep = mixed_deep_of(op, params);
  for (long r = 0; r < live; r++) {
    const DecodeSlot& slot = m.slots[r];
    room.k = m.cache + slot.place * each + offset;
    room.v = room.k + keys * room.ld;
    decode_append(m.values + k.value + r * k.ld, keys, slot.at, room.ld, room.k);
    decode_append(m.values + v.value + r * v.ld, values, slot.at, room.ld, room.v);
    if (r >= asked) continue;
    shape.t = slot.at + 1;
    mixed_rows(shape, {0, 1, shape.t}, m.values + q.value + r * q.ld, q.ld,
               relative ? relative + prompts.length - shape.t : nullptr,
               decode_relative_ld(prompts.length), nullptr, 0, deep,
               m.values + op.out.value + r * op.out.ld, op.out.ld, room);
  }
}

inline void decode_embed(const OpRecord& op, const float* params, long n, const DecodeMemory& m) {
  const long ld = op.weight_ld;
  for (long r = 0; r < n; r++)
    embed_forward(1, 1, op.out.width, op.out.ld, ld, op.first, m.ids + r, params + op.weight,
                  op.weight2 < 0 ? nullptr : params + op.weight2 + m.slots[r].at * ld,
                  m.values + op.out.value + r * op.out.ld);
}

// One token of each of `live` sequences, of which the first `asked` say what follows. From the
// `last` attention on, where nothing but keys and values is left of the others, those alone.
inline void decode_step(const PlanRecord& plan, const float* params, const PromptRecord& prompts,
                        long each, int last, long live, long asked, const DecodeMemory& m) {
  long offset = 0;
  const float* relative = m.relative;
  for (int i = 0; i < plan.op_count; i++) {
    const OpRecord& op = plan.ops[i];
    const long n = i < last ? live : asked;
    if (op.kind == OP_EMBED) {
      decode_embed(op, params, n, m);
    } else if (op.kind == OP_NORM) {
      forward_norm(op, n, params, m.values);
    } else if (op.kind == OP_LINEAR) {
      linear_forward(op, n, m.packed, m.values);
    } else if (op.kind == OP_CANONICAL) {
      canonical_forward(op, n, 1, m.ids, params, m.values);
    } else if (attends(op)) {
      const bool biased = op.weight >= 0;
      decode_attention(op, params, biased ? relative : nullptr, prompts, each, offset, live, n, m);
      offset += decode_columns(op) * mixed_ld(prompts.length);
      if (biased) relative += op.heads * decode_relative_ld(prompts.length);
    }
  }
}

inline void decode_swap(DecodeSlot& a, DecodeSlot& b) {
  const DecodeSlot kept = a;
  a = b;
  b = kept;
}

// Those that will say what follows come first; how many they are.
inline long decode_order(const PromptRecord& prompts, long live, DecodeSlot* slots) {
  long asked = 0;
  for (long r = 0; r < live; r++)
    if (slots[r].at + 1 >= prompts.lengths[slots[r].prompt]) decode_swap(slots[r], slots[asked++]);
  return asked;
}

// Prompts [first, end) -> told [count, max_new], -1 from where a row is told no further.
inline void member_generate(const PlanRecord& plan, const Member& member, const DecodeMemory& m,
                            const PromptRecord& prompts, int64_t first, int64_t end,
                            int32_t* told) {
  const float* params = member.params;
  const long each = decode_cache(plan, prompts.length);
  const OpRecord& loss = plan.ops[plan.op_count - 1];
  int last = -1;
  for (int i = 0; i < plan.op_count; i++)
    if (attends(plan.ops[i])) last = i;
  decode_pack(plan, params, prompts, m);
  for (int64_t i = first * prompts.max_new; i < end * prompts.max_new; i++) told[i] = -1;
  for (long r = 0; r < m.rows; r++) m.slots[r].place = r;
  int64_t next = first;
  for (long live = 0;;) {
    for (; live < m.rows && next < end; live++, next++) {
      m.slots[live].prompt = next;
      // Without attention nothing of a prompt but its last token matters.
      m.slots[live].at = last < 0 ? prompts.lengths[next] - 1 : 0;
    }
    if (live == 0) return;
    const long asked = decode_order(prompts, live, m.slots);
    for (long r = 0; r < live; r++) {
      const DecodeSlot& slot = m.slots[r];
      const int64_t own = prompts.lengths[slot.prompt];
      m.ids[r] = slot.at < own ? prompts.tokens[slot.prompt * prompts.width + slot.at]
                               : told[slot.prompt * prompts.max_new + slot.at - own];
    }
    decode_step(plan, params, prompts, each, last, live, asked, m);
    for (long r = live - 1; r >= 0; r--) {
      DecodeSlot& slot = m.slots[r];
      const int64_t own = prompts.lengths[slot.prompt], index = ++slot.at - own;
      if (index < 0) continue;
      const float* row = m.values + loss.in[0].value + r * loss.in[0].ld;
      const int32_t token = likeliest(loss, row, plan.ports.vocabulary);
      told[slot.prompt * prompts.max_new + index] = token;
      if (token == prompts.end || index + 1 == prompts.max_new) decode_swap(slot, m.slots[--live]);
    }
  }
}

}  // namespace
