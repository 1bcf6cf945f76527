// The records of tasks/stream.h from the dictionaries that Python hands over.
#pragma once

#include <vector>

#include "bindings_arrays.h"
#include "tasks/anchor_checks.h"
#include "tasks/chain_checks.h"
#include "tasks/host_checks.h"
#include "tasks/stream.h"
#include "tasks/table_checks.h"

namespace compfast {

// A checked record and the arrays that it points to, and what its sequences are.
class Stream {
 public:
  Stream(const pybind11::dict& d, int64_t batch, int64_t vocabulary) {
    const auto kind = value_of<std::string>(d, "kind");
    if (kind == "anchor")
      anchor(d, batch, vocabulary);
    else if (kind == "table")
      table(d, batch, vocabulary);
    else if (kind == "host")
      host(d, batch, vocabulary);
    else if (kind == "chain")
      chain(d, batch, vocabulary);
    else
      refuse("kind is '" + kind + "'; a stream is anchor, table, chain or host");
  }

  // Steps [from, until) of the member in row `row` can be drawn.
  void require_steps(int64_t row, int64_t from, int64_t until) const {
    if (record.kind == STREAM_HOST) check_steps(record.host, row, from, until);
  }

  TaskStream record;
  Ports ports;

 private:
  void anchor(const pybind11::dict& d, int64_t batch, int64_t vocabulary) {
    AnchorStream& s = record.anchor;
    record.kind = STREAM_ANCHOR;
    s.pairs = keep(d, "pairs", {-1, 3}, s.pair_count);
    s.combos = keep(d, "combos", {-1, 2}, s.combo_count);
    read(d, "item_low", s.item_low);
    read(d, "item_count", s.item_count);
    read(d, "seq_len", s.positions);
    read(d, "words", s.words);
    read(d, "group_size", s.group_size);
    check_stream(s, batch, vocabulary);
    ports.positions = s.positions;
  }

  void table(const pybind11::dict& d, int64_t batch, int64_t vocabulary) {
    TableStream& s = record.table;
    record.kind = STREAM_TABLE;
    s.tokens = keep(d, "tokens", {-1, -1}, s.rows, s.positions);
    s.targets = keep(d, "targets", {s.rows});
    read(d, "shuffled", s.shuffled);
    check_stream(s, batch, vocabulary);
    ports.positions = s.positions;
  }

  void host(const pybind11::dict& d, int64_t batch, int64_t vocabulary) {
    HostStream& s = record.host;
    record.kind = STREAM_HOST;
    Ports& p = s.ports;
    p.width = value_of<int32_t>(d, "width");
    p.numbers = value_of<int32_t>(d, "numbers");
    require_between("width", p.width, 0, MOST_WIDTH);
    require_between("numbers", p.numbers, 0, 1);
    if (p.width)
      s.drawn.vectors = keep<float>(d, "inputs", {-1, -1, -1, -1, p.width}, s.slots, s.steps,
                                    s.batch, p.positions);
    else
      s.drawn.tokens = keep(d, "inputs", {-1, -1, -1, -1}, s.slots, s.steps, s.batch, p.positions);
    int64_t slots = 0, steps = 0, sequences = 0;
    if (p.numbers)
      s.drawn.answers = keep<float>(d, "targets", {s.slots, s.steps, s.batch, -1, -1}, slots, steps,
                                    sequences, p.asked, p.vocabulary);
    else
      s.drawn.targets =
          keep(d, "targets", {s.slots, s.steps, s.batch, -1}, slots, steps, sequences, p.asked);
    s.slot = keep(d, "slots", {-1}, s.members);
    read(d, "first", s.first);
    check_stream(s, batch, vocabulary);
    ports = p;
  }

  void chain(const pybind11::dict& d, int64_t batch, int64_t vocabulary) {
    ChainStream& s = record.chain;
    record.kind = STREAM_CHAIN;
    read(d, "states", s.states);
    read(d, "order", s.order);
    read(d, "seq_len", s.positions);
    require_between("states of the chain", s.states, 2, vocabulary);
    s.next = keep(d, "next", {-1, s.states - 1}, s.contexts);
    require_between("contexts of the chain", s.contexts, 2, MOST_WIDTH);
    s.start = keep(d, "start", {s.contexts - 1});
    check_stream(s, batch, vocabulary);
    ports.positions = s.positions;
  }

  // The array's data; its first sizes go to `sizes`.
  template <typename T = int32_t, typename... Sizes>
  const T* keep(const pybind11::dict& d, const char* name, const std::vector<int64_t>& shape,
                Sizes&... sizes) {
    const auto array = read_array<T>(d, name, shape);
    [[maybe_unused]] int axis = 0;
    (
        [&] {
          require_between("an axis", array.shape(axis), 0, MOST_WIDTH);
          sizes = (Sizes)array.shape(axis++);
        }(),
        ...);
    kept_.push_back(array);
    return array.data();
  }

  std::vector<pybind11::object> kept_;
};

}  // namespace compfast
