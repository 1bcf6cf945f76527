// The records of tasks/stream.h from the dictionaries that Python hands over.
#pragma once

#include <vector>

#include "bindings_arrays.h"
#include "tasks/anchor_checks.h"
#include "tasks/chain_checks.h"
#include "tasks/chain_search_checks.h"
#include "tasks/fuzzy_checks.h"
#include "tasks/host_checks.h"
#include "tasks/hyperteacher_checks.h"
#include "tasks/sraven_checks.h"
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
    else if (kind == "chain_search")
      chain_search(d, batch, vocabulary);
    else if (kind == "fuzzy")
      fuzzy(d, batch);
    else if (kind == "sraven")
      sraven(d, batch, vocabulary);
    else if (kind == "hyperteacher")
      hyperteacher(d, batch);
    else
      refuse("kind is '" + kind +
             "'; a stream is anchor, table, chain, chain_search, fuzzy, sraven, hyperteacher or"
             " host");
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
    read(d, "masked", s.masked);
    require_between("masked", s.masked, 0, 1);
    if (s.masked) s.asked = s.positions;
    s.targets = s.masked ? keep(d, "targets", {s.rows, s.asked}) : keep(d, "targets", {s.rows});
    s.draws = s.rows;
    if (d.contains("order")) s.order = keep(d, "order", {-1}, s.draws);
    read(d, "shuffled", s.shuffled);
    check_stream(s, batch, vocabulary);
    ports.positions = s.positions;
    ports.asked = s.asked;
    ports.masked = s.masked;
  }

  void host(const pybind11::dict& d, int64_t batch, int64_t vocabulary) {
    HostStream& s = record.host;
    record.kind = STREAM_HOST;
    Ports& p = s.ports;
    p.width = value_of<int32_t>(d, "width");
    p.numbers = value_of<int32_t>(d, "numbers");
    p.masked = value_of<int32_t>(d, "masked");
    require_between("width", p.width, 0, MOST_WIDTH);
    require_between("numbers", p.numbers, 0, 1);
    require_between("masked", p.masked, 0, 1);
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

  void chain_search(const pybind11::dict& d, int64_t batch, int64_t vocabulary) {
    ChainSearchStream& s = record.chain_search;
    record.kind = STREAM_CHAIN_SEARCH;
    s.steps = keep(d, "steps", {-1}, s.step_count);
    read(d, "chains", s.chains);
    read(d, "links", s.links);
    read(d, "order", s.order);
    read(d, "named", s.named);
    read(d, "to_end", s.to_end);
    read(d, "wrong_links", s.wrong_links);
    read(d, "item_low", s.item_low);
    read(d, "item_count", s.item_count);
    read(d, "modulus", s.modulus);
    check_stream(s, batch, vocabulary);
    ports.positions = (int32_t)chain_search_positions(s);
  }

  void fuzzy(const pybind11::dict& d, int64_t batch) {
    FuzzyStream& s = record.fuzzy;
    record.kind = STREAM_FUZZY;
    s.combinations = keep(d, "combinations", {-1, -1}, s.combination_count, s.terms);
    read(d, "variables", s.variables);
    read(d, "product", s.product);
    read(d, "seq_len", s.positions);
    check_stream(s, batch);
    one_number(s.positions, s.variables + 1);
  }

  void sraven(const pybind11::dict& d, int64_t batch, int64_t vocabulary) {
    SravenStream& s = record.sraven;
    record.kind = STREAM_SRAVEN;
    s.rules = keep(d, "rules", {-1, -1}, s.set_count, s.features);
    s.permutations = keep(d, "permutations", {-1, s.features}, s.permutation_count);
    s.triples = keep(d, "triples", {-1, 3}, s.triple_count);
    read(d, "symbols", s.symbols);
    read(d, "permuted", s.permuted);
    check_stream(s, batch, vocabulary);
    ports.positions = 9 * s.features;
    ports.width = ports.vocabulary = s.symbols;
    ports.asked = s.features;
  }

  void hyperteacher(const pybind11::dict& d, int64_t batch) {
    HyperteacherStream& s = record.hyperteacher;
    record.kind = STREAM_HYPERTEACHER;
    s.masks = keep(d, "masks", {-1, -1}, s.mask_count, s.modules);
    int32_t modules = 0;
    s.theta = keep<double>(d, "theta", {s.modules, -1, -1}, modules, s.hidden, s.dim);
    s.readout = keep<float>(d, "readout", {s.hidden});
    read(d, "discrete", s.discrete);
    read(d, "tanh", s.tanh);
    read(d, "samples", s.samples);
    read(d, "extra", s.extra);
    check_stream(s, batch);
    one_number(s.samples + s.extra, s.dim + 1);
  }

  // Vectors, of which the last position's answer is a number.
  void one_number(int32_t positions, int32_t width) {
    ports.positions = positions;
    ports.width = width;
    ports.vocabulary = ports.numbers = 1;
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
