// Greedy decoding: what is asked, how it is divided, and the room that it takes; the same for
// every vector width. Its plan (compfast/engines/decoding.py) has one position a sequence: a row
// is one token of one prompt.
#pragma once

#include "attention_mixed_sizes.h"
#include "plan.h"

namespace compfast {

// Token ids [count, width] of which the first `lengths` of each row are its prompt.
struct PromptRecord {
  const int32_t* tokens = nullptr;
  const int32_t* lengths = nullptr;
  int64_t count = 0, width = 0;
  int32_t max_new = 0, end = -1;
  int64_t length = 0;  // positions that the longest sequence takes
  // Of the keys 0 .. length - 1 seen from position length - 1; null without relative positions.
  const int32_t* buckets = nullptr;
};

// A sequence that is under way: the position to compute next, and where its keys and values lie.
struct DecodeSlot {
  int64_t prompt, at, place;
};

// One worker's memory for one plan and one length.
struct DecodeMemory {
  float* values = nullptr;      // [workspace_size]
  float* packed = nullptr;      // [packed_size]
  float* scratch = nullptr;     // [decode_scratch]
  float* cache = nullptr;       // [rows, decode_cache]
  float* relative = nullptr;    // [decode_relative]
  DecodeSlot* slots = nullptr;  // [rows]
  int32_t* ids = nullptr;       // [rows]
  int64_t rows = 0;
};

// Floats of keys and values that are held at once, unless one sequence has more: a nominal share
// of a last cache.
constexpr int64_t DECODE_CACHE = 2 * 1024 * 1024;
// Prompts of one job, in rows that are computed at once: the last of a job leave rows empty.
constexpr int64_t DECODE_TURNS = 8;

static inline bool attends(const OpRecord& op) {
  return op.kind == OP_ATTENTION || op.kind == OP_MIXED_ATTENTION;
}

// Keys and values of one attention and sequence, [heads * d, mixed_ld(length)] each.
static inline int64_t decode_columns(const OpRecord& op) {
  return (int64_t)op.heads * (op.d_k + op.d_v);
}

static inline int64_t decode_cache(const PlanRecord& plan, int64_t length) {
  int64_t columns = 0;
  for (int32_t i = 0; i < plan.op_count; i++)
    if (attends(plan.ops[i])) columns += decode_columns(plan.ops[i]);
  return columns * mixed_ld(length);
}

// Floats from one head's relative bias to the next: a whole vector may be read past the last key.
static inline int64_t decode_relative_ld(int64_t length) { return to_pad(length) + 16; }

static inline int64_t decode_relative(const PlanRecord& plan, int64_t length) {
  int64_t heads = 0;
  for (int32_t i = 0; i < plan.op_count; i++)
    if (attends(plan.ops[i]) && plan.ops[i].weight >= 0) heads += plan.ops[i].heads;
  return heads * decode_relative_ld(length);
}

// The most that any attention of the plan wants.
static inline int64_t decode_scratch(const PlanRecord& plan, int64_t length) {
  int64_t size = 1;
  for (int32_t i = 0; i < plan.op_count; i++) {
    const OpRecord& op = plan.ops[i];
    if (!attends(op)) continue;
    const int64_t wanted = mixed_room(length, op.heads, op.d_k, op.d_v, op.path);
    size = wanted > size ? wanted : size;
  }
  return size;
}

// Sequences under way at once: of shape and length alone.
static inline int64_t decode_rows(const PlanRecord& plan, int64_t length) {
  const int64_t each = decode_cache(plan, length);
  const int64_t rows = each > 0 ? DECODE_CACHE / each : plan.microbatch;
  return rows < 1 ? 1 : rows < plan.microbatch ? rows : plan.microbatch;
}

}  // namespace compfast
