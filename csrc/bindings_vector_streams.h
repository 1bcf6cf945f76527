// The records of tasks/vector_stream.h from the dictionaries that Python hands over.
#pragma once

#include <vector>

#include "bindings_arrays.h"
#include "tasks/fuzzy_checks.h"
#include "tasks/hyperteacher_checks.h"
#include "tasks/sraven_checks.h"
#include "tasks/vector_stream.h"

namespace compfast {

// A checked record and the arrays that it points to. A step has vectors [batch, positions, width]
// and answers [batch, asked]: values where `classes` is 0, else targets below it.
class Vectors {
 public:
  static bool has(const std::string& kind) {
    return kind == "fuzzy" || kind == "sraven" || kind == "hyperteacher";
  }

  Vectors(const pybind11::dict& d, int64_t batch) {
    const auto kind = value_of<std::string>(d, "kind");
    if (kind == "fuzzy")
      fuzzy(d, batch);
    else if (kind == "sraven")
      sraven(d, batch);
    else if (kind == "hyperteacher")
      hyperteacher(d, batch);
    else
      refuse("kind is '" + kind + "'; a stream of vectors is fuzzy, sraven or hyperteacher");
  }

  VectorStream record;
  int32_t positions = 0, width = 0, asked = 1, classes = 0;

 private:
  void fuzzy(const pybind11::dict& d, int64_t batch) {
    FuzzyStream& s = record.fuzzy;
    record.kind = VECTORS_FUZZY;
    s.combinations = keep<int32_t>(d, "combinations", {-1, -1}, s.combination_count, s.terms);
    read(d, "variables", s.variables);
    read(d, "product", s.product);
    read(d, "seq_len", s.positions);
    check_stream(s, batch);
    positions = s.positions;
    width = s.variables + 1;
  }

  void sraven(const pybind11::dict& d, int64_t batch) {
    SravenStream& s = record.sraven;
    record.kind = VECTORS_SRAVEN;
    s.rules = keep<int32_t>(d, "rules", {-1, -1}, s.set_count, s.features);
    s.permutations = keep<int32_t>(d, "permutations", {-1, s.features}, s.permutation_count);
    s.triples = keep<int32_t>(d, "triples", {-1, 3}, s.triple_count);
    read(d, "symbols", s.symbols);
    read(d, "permuted", s.permuted);
    check_stream(s, batch);
    positions = 9 * s.features;
    width = s.symbols;
    asked = s.features;
    classes = s.symbols;
  }

  void hyperteacher(const pybind11::dict& d, int64_t batch) {
    HyperteacherStream& s = record.hyperteacher;
    record.kind = VECTORS_HYPERTEACHER;
    s.masks = keep<int32_t>(d, "masks", {-1, -1}, s.mask_count, s.modules);
    int32_t modules = 0;
    s.theta = keep<double>(d, "theta", {s.modules, -1, -1}, modules, s.hidden, s.dim);
    s.readout = keep<float>(d, "readout", {s.hidden});
    read(d, "discrete", s.discrete);
    read(d, "tanh", s.tanh);
    read(d, "samples", s.samples);
    read(d, "extra", s.extra);
    check_stream(s, batch);
    positions = s.samples + s.extra;
    width = s.dim + 1;
  }

  // The array's data; its first sizes go to `sizes`.
  template <typename T, typename... Sizes>
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
