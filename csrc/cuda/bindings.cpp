// compfast._cuda: the persistent member step on raw device addresses and a stream.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>

#include "../tasks/anchor_checks.h"
#include "persistent.h"

namespace py = pybind11;

namespace compfast {
namespace cuda {
namespace {

using Address = uintptr_t;

template <typename T>
T* at(const py::dict& from, const char* name, size_t alignment = alignof(T)) {
  const Address address = from[name].cast<Address>();
  if (address == 0 || address % alignment != 0) refuse(std::string(name) + " is no address");
  return reinterpret_cast<T*>(address);
}

template <typename T>
void read(const py::dict& from, const char* name, T& to) {
  to = from[name].cast<T>();
}

// Steps [base, until) are drawn by the kernel, or in a buffer that the host filled.
void read_stream(const py::dict& stream, int32_t positions, int32_t batch, int64_t base,
                 int64_t until, Course& c) {
  const auto kind = stream["kind"].cast<std::string>();
  if (kind == "host") {
    c.given.tokens = at<const int32_t>(stream, "tokens");
    c.given.targets = at<const int32_t>(stream, "targets");
    read(stream, "first", c.given.first);
    read(stream, "steps", c.given.steps);
    if (base < c.given.first || until - c.given.first > c.given.steps)
      refuse("steps " + std::to_string(base) + " to " + std::to_string(until) +
             " are asked for; the buffer holds " + std::to_string(c.given.steps) + " from " +
             std::to_string(c.given.first) + " on");
    return;
  }
  if (kind != "anchor") refuse("kind is '" + kind + "'; a stream is anchor or host");
  c.stream.pairs = at<const int32_t>(stream, "pairs");
  c.stream.combos = at<const int32_t>(stream, "combos");
  read(stream, "pair_count", c.stream.pair_count);
  read(stream, "combo_count", c.stream.combo_count);
  read(stream, "item_low", c.stream.item_low);
  read(stream, "item_count", c.stream.item_count);
  read(stream, "words", c.stream.words);
  read(stream, "group_size", c.stream.group_size);
  c.stream.positions = positions;
  check_stream_sizes(c.stream, batch);
}

Course course_of(const py::dict& stream, const py::dict& optimizer, int32_t positions,
                 int32_t batch, float epsilon, int64_t base, int64_t until) {
  Course c;
  read_stream(stream, positions, batch, base, until, c);
  c.optimizer.scale = at<const double>(optimizer, "scale");
  c.optimizer.offset = at<const double>(optimizer, "offset");
  c.optimizer.correction1 = at<const double>(optimizer, "correction1");
  c.optimizer.correction2 = at<const double>(optimizer, "correction2");
  c.optimizer.decay = at<const double>(optimizer, "decay");
  read(optimizer, "beta1", c.optimizer.beta1);
  read(optimizer, "beta2", c.optimizer.beta2);
  read(optimizer, "eps", c.optimizer.eps);
  read(optimizer, "kind", c.optimizer.kind);
  require_between("kind", c.optimizer.kind, OPTIMIZER_ADAMW, OPTIMIZER_SGD);
  read(optimizer, "momentum", c.optimizer.momentum);
  read(optimizer, "nesterov", c.optimizer.nesterov);
  require_between("nesterov", c.optimizer.nesterov, 0, 1);
  c.decay_columns = at<const uint8_t>(optimizer, "decay_columns");
  c.batch = batch;
  c.epsilon = epsilon;
  return c;
}

Members members_of(const py::dict& d) {
  return {at<float>(d, "params", alignof(Four)),
          at<float>(d, "exp_avg"),
          at<float>(d, "exp_avg_sq"),
          at<float>(d, "gradient"),
          at<int32_t>(d, "tokens"),
          at<int32_t>(d, "targets"),
          at<const uint64_t>(d, "seeds"),
          at<const int32_t>(d, "slots"),
          at<const double>(d, "lr"),
          at<const double>(d, "clip"),
          at<const double>(d, "weight_decay"),
          at<int64_t>(d, "step"),
          at<uint8_t>(d, "status"),
          at<float>(d, "loss"),
          at<float>(d, "grad_norm")};
}

void train(int network, const py::dict& stream, const py::dict& optimizer, int32_t batch,
           float epsilon, const py::dict& members, int count, int64_t base, int64_t until,
           Address queue) {
  if (count < 1 || batch < 1 || until <= base)
    throw std::invalid_argument("members, batch and steps must be positive");
  require_between("network", network, 0, NETWORKS - 1);
  require_between("base", base, 0, MOST_BLOCKS);
  require_between("until", until, 0, MOST_BLOCKS);
  const int positions = with_network(network, [](auto n) { return (int)decltype(n)::T; });
  const std::string wrong =
      train_network(network, course_of(stream, optimizer, positions, batch, epsilon, base, until),
                    members_of(members), count, base, until, reinterpret_cast<void*>(queue));
  if (!wrong.empty()) throw std::runtime_error(wrong);
}

// What the kernel of a network takes on GPUs whose blocks have so much shared memory.
template <class N>
py::dict chip(int shared) {
  py::dict d;
  d["kept"] = kept_at<N>(shared);
  d["bytes"] = chip_bytes<N, sequences<N>()>(kept_at<N>(shared));
  return d;
}

py::list shapes() {
  py::list all;
  for (int network = 0; network < NETWORKS; network++) {
    with_network(network, [&](auto n) {
      using N = decltype(n);
      py::dict d, chips;
      d["layers"] = (int)N::LAYERS;
      d["positions"] = (int)N::T;
      d["d_model"] = (int)N::D;
      d["heads"] = (int)N::H;
      d["d_ff"] = (int)N::FF;
      d["vocabulary"] = (int)N::V;
      d["flat_size"] = (int)places<N>().size;
      d["sequences"] = sequences<N>();
      chips[py::int_(80)] = chip<N>(SHARED_80);
      chips[py::int_(90)] = chip<N>(SHARED_90);
      d["chips"] = chips;
      all.append(d);
    });
  }
  return all;
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "The persistent member step of csrc/cuda; addresses are the device's.";
  m.def("shapes", &shapes, "The networks that the kernel is compiled for.");
  m.def("train", &train, py::arg("network"), py::arg("stream"), py::arg("optimizer"),
        py::arg("batch"), py::arg("epsilon"), py::arg("members"), py::arg("count"), py::arg("base"),
        py::arg("until"), py::arg("stream_handle"));
}

}  // namespace cuda
}  // namespace compfast
