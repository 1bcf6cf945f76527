// One worker's memory for greedy decoding (decode_sizes.h).
#pragma once

#include <algorithm>

#include "decode_sizes.h"
#include "worker_memory.h"

namespace compfast {

struct Decoding {
  Decoding(const PlanRecord& plan, int64_t length, int64_t prompts)
      : rows(std::min(prompts, decode_rows(plan, length))),
        values(allocate<float>(plan.workspace_size)),
        packed(allocate<float>(plan.packed_size)),
        scratch(allocate<float>(decode_scratch(plan, length))),
        cache(allocate<float>(times(rows, decode_cache(plan, length)))),
        relative(allocate<float>(decode_relative(plan, length))),
        slots(allocate<DecodeSlot>(rows)),
        ids(allocate<int32_t>(rows)) {
    view = {values.get(),   packed.get(), scratch.get(), cache.get(),
            relative.get(), slots.get(),  ids.get(),     rows};
  }
  const int64_t rows;
  const std::unique_ptr<float[], FreeDeleter> values, packed, scratch, cache, relative;
  const std::unique_ptr<DecodeSlot[], FreeDeleter> slots;
  const std::unique_ptr<int32_t[], FreeDeleter> ids;
  DecodeMemory view;
};

}  // namespace compfast
