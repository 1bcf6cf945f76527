// A plan with all offsets resolved (compfast/engines/layout.py makes it), as plain data.
// Offsets count floats. Leading dimensions are multiples of 16; the padding of every weight
// and every value is zero.
#pragma once

#include <cstdint>

#include "batch.h"

namespace compfast {

enum OpKind : int32_t {
  OP_EMBED = 0,
  OP_NORM = 1,
  OP_LINEAR = 2,
  OP_ATTENTION = 3,
  OP_LOSS = 4,
  OP_HEAD_LINEAR = 5,
  OP_CANONICAL = 6,
  OP_VECTORS = 7,
  OP_SELECT = 8,
  OP_MIXED_ATTENTION = 9,
  OP_GENERATED = 10,
};

enum LossKind : int32_t {
  LOSS_CROSS_ENTROPY = 0,
  LOSS_LOGISTIC = 1,  // one logit, of token 1 against token 0
  LOSS_SQUARED_ERROR = 2,
};

// How an op's backward meets the gradient buffer of an input.
enum GradMode : int32_t {
  GRAD_WRITE = 0,     // first to write: store
  GRAD_ADD = 1,       // others wrote before: add
  GRAD_ZERO_ADD = 2,  // first, but it touches only some rows or no padding: clear, then add
  GRAD_NONE = 3,      // the task's own numbers: nothing
};

// A [rows, width] slice of a buffer; rows = positions (or the last asked ones) a sequence.
struct ViewRecord {
  int64_t value = -1;  // offset of the first column in the workspace, a microbatch's first row
  int64_t grad = -1;
  int32_t width = 0;
  int32_t ld = 0;
  int32_t rows = 0;  // a sequence: T, or as many as are asked for
  int32_t mode = GRAD_WRITE;
};

struct OpRecord {
  int32_t kind = 0;
  ViewRecord in[3];
  int32_t inputs = 0;
  ViewRecord out;
  int64_t weight = -1;   // offset in the flat parameter vector; embed: token table; canonical: e
  int64_t weight2 = -1;  // embed: position table, or none; canonical: w
  int64_t bias = -1;
  int32_t weight_ld = 0;
  int32_t d_out = 0, d_in = 0;
  int64_t packed = -1;       // linear: W^T [d_in, packed_ld] in the packed area
  int64_t packed_bias = -1;  // linear: [packed_ld], zero padded
  int32_t packed_ld = 0;
  int32_t bf16 = 0;          // operands of the products are bfloat16
  int64_t packed_back = -1;  // bf16: W in pairs along d_out, [pairs(d_out), weight_ld]
  int64_t operands = 0;      // bf16: room in the workspace for the operands of one product
  int32_t activation = 0;
  int64_t slope = -1;         // linear with activation: act' [rows, out.ld] in the workspace
  int64_t factor = -1;        // linear whose input came from an activation: that slope
  int32_t slope_applied = 0;  // the consumer multiplied the gradient by the slope already
  int64_t saved = -1;  // norm: mean, 1/std a row; attention: [heads, rows, attention_saved_row(T)]
  int32_t heads = 0, d_k = 0, d_v = 0, causal = 0;
  int32_t shared = 0;                  // attention: all heads read one k = v
  int32_t head_width = 0, narrow = 0;  // head_linear; d_in is one head's other width
  float epsilon = 0;
  int64_t spare = -1;  // norm without shifts: a row of zeros and one that nobody reads
  int32_t first = 0;   // embed: the token of the table's first row; those before it add nothing
  int32_t loss = LOSS_CROSS_ENTROPY;
  // mixed attention (attention_mixed_sizes.h): weight is its relative table or -1, packed that
  // table over all distances, spare the gradient of this; weight2 is its deep layer or -1.
  int32_t scores = 0, path = 0, buckets = 0, deep_ld = 0, layer = 0;
  int64_t keep = -1;        // the dropout mask in the packed area, or none
  uint32_t drop_below = 0;  // words that drop
  float keep_scale = 1;
  // Tokens are counted back from the last. vectors: the one that comes as zeros, or -1. generated:
  // the one whose first `columns` numbers are the input.
  int32_t blank = -1, query = 0, columns = 0;
};

// A member's weight decays (compfast/engines/decays.py): of the groups embedding, qk, vo, ffn,
// head, of biases and norms, and the zero of what never decays.
constexpr int32_t DECAYS = 7;

// A stretch of the flat vector whose tensors share a weight decay.
struct Segment {
  int64_t offset = 0, length = 0;
  int32_t decay = 0;  // which of DECAYS
};

struct PlanRecord {
  const OpRecord* ops = nullptr;
  int32_t op_count = 0;
  const int32_t* buckets = nullptr;  // [2 T - 1] of the distances k - q, or null
  const Segment* segments = nullptr;
  int32_t segment_count = 0;
  int64_t flat_size = 0;    // parameters of one member, padded
  int64_t packed_size = 0;  // transposed copies
  int64_t workspace_size = 0;
  Ports ports;
  int32_t microbatch = 0;  // sequences
  int32_t batch = 0;       // sequences a step
  int32_t loss_all = 0;    // the target of each position is the next one's token
  int32_t ragged = 0;      // training takes each sequence up to its last target (batch.h)
};

enum OptimizerKind : int32_t {
  OPTIMIZER_ADAMW = 0,
  OPTIMIZER_SGD = 1,  // m is its buffer, v is not touched
};

struct Optimizer {
  double beta1 = 0, beta2 = 0, eps = 0;
  const double* scale = nullptr;   // [steps]
  const double* offset = nullptr;  // [steps]
  const double* correction1 = nullptr;
  const double* correction2 = nullptr;
  const double* decay = nullptr;  // [steps], times the member's weight decay
  int32_t kind = OPTIMIZER_ADAMW;
  double momentum = 0;  // SGD's
  int32_t nesterov = 0;
};

struct Member {
  float* params = nullptr;  // [flat_size]
  float* m = nullptr;
  float* v = nullptr;
  uint64_t seed = 0;          // of its data
  uint64_t dropout_seed = 0;  // its init_seed
  int64_t row = 0;            // in its group
  double lr = 0, clip = 0;
  const double* weight_decay = nullptr;  // [DECAYS]
};

// What a step does beside the ops of its plan.
enum Phase : int32_t {
  PHASE_DRAW = 0,    // the batch
  PHASE_PACK = 1,    // transposed or rounded copies of the weights
  PHASE_CLEAR = 2,   // the gradient vectors
  PHASE_UPDATE = 3,  // halves added, norm, clipping, the optimiser
  PHASES = 4,
};

// Ticks spent so far (profile.h).
struct Profile {
  int64_t* forward = nullptr;   // [op_count]
  int64_t* backward = nullptr;  // [op_count]
  int64_t* phases = nullptr;    // [PHASES]
};

// One worker's memory; NaN-free where padding is read.
struct Workspace {
  float* values = nullptr;  // [workspace_size]
  float* packed = nullptr;
  float* gradient[2] = {};  // [flat_size], one a half of the batch
  float* scratch = nullptr;
  Batch batch;
  int32_t* starts = nullptr;  // [microbatch * T + 1] of a ragged plan: Given::starts
  const Profile* profile = nullptr;
};

struct StepResult {
  float loss = 0, grad_norm = 0;
  bool finite = false;
};

struct OpTable;       // op_table.h
struct LoopTable;     // loop_table.h
struct TaskStream;    // tasks/stream.h
struct PromptRecord;  // decode_sizes.h
struct DecodeMemory;

// What one instruction set exports; the only symbol of its object file.
struct KernelTable {
  const char* isa;
  int32_t width;
  void (*pack)(const PlanRecord&, const Member&, const Workspace&, int64_t step);
  double (*half)(const PlanRecord&, const TaskStream&, const Member&, const Workspace&,
                 int64_t step, int half, float* gradient);
  StepResult (*update)(const PlanRecord&, const Optimizer&, const Member&, const Workspace&,
                       const double* sums, int64_t step);
  float (*gradient)(const PlanRecord&, const Member&, const Workspace&, const Given& batch,
                    int64_t count);
  void (*outputs)(const PlanRecord&, const Member&, const Workspace&, const Given& batch,
                  int64_t count, float* out, int32_t* best);
  void (*generate)(const PlanRecord&, const Member&, const DecodeMemory&, const PromptRecord&,
                   int64_t first, int64_t end, int32_t* told);
  const OpTable* ops;
  const LoopTable* loops;
};

}  // namespace compfast
