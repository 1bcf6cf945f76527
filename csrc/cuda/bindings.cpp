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
T* at(const py::dict& from, const char* name) {
  const Address address = from[name].cast<Address>();
  if (address == 0 || address % alignof(T) != 0) refuse(std::string(name) + " is no address");
  return reinterpret_cast<T*>(address);
}

template <typename T>
void read(const py::dict& from, const char* name, T& to) {
  to = from[name].cast<T>();
}

Course course_of(const py::dict& stream, const py::dict& optimizer, int32_t batch, float epsilon) {
  Course c;
  c.stream.pairs = at<const int32_t>(stream, "pairs");
  c.stream.combos = at<const int32_t>(stream, "combos");
  read(stream, "pair_count", c.stream.pair_count);
  read(stream, "combo_count", c.stream.combo_count);
  read(stream, "item_low", c.stream.item_low);
  read(stream, "item_count", c.stream.item_count);
  read(stream, "words", c.stream.words);
  read(stream, "group_size", c.stream.group_size);
  c.stream.positions = Tiny::T;
  check_stream_sizes(c.stream, batch);
  c.optimizer.scale = at<const double>(optimizer, "scale");
  c.optimizer.offset = at<const double>(optimizer, "offset");
  c.optimizer.correction1 = at<const double>(optimizer, "correction1");
  c.optimizer.correction2 = at<const double>(optimizer, "correction2");
  read(optimizer, "beta1", c.optimizer.beta1);
  read(optimizer, "beta2", c.optimizer.beta2);
  read(optimizer, "eps", c.optimizer.eps);
  c.batch = batch;
  c.epsilon = epsilon;
  return c;
}

Members members_of(const py::dict& d) {
  return {at<float>(d, "params"),
          at<float>(d, "exp_avg"),
          at<float>(d, "exp_avg_sq"),
          at<float>(d, "gradient"),
          at<int32_t>(d, "tokens"),
          at<int32_t>(d, "targets"),
          at<const uint64_t>(d, "seeds"),
          at<const double>(d, "lr"),
          at<const double>(d, "weight_decay"),
          at<const double>(d, "clip"),
          at<int64_t>(d, "step"),
          at<uint8_t>(d, "status"),
          at<float>(d, "loss"),
          at<float>(d, "grad_norm")};
}

void train(const py::dict& stream, const py::dict& optimizer, int32_t batch, float epsilon,
           const py::dict& members, int count, int64_t base, int64_t until, Address queue) {
  if (count < 1 || batch < 1 || until <= base)
    throw std::invalid_argument("members, batch and steps must be positive");
  require_between("base", base, 0, MOST_BLOCKS);
  require_between("until", until, 0, MOST_BLOCKS);
  const std::string wrong =
      train_tiny(course_of(stream, optimizer, batch, epsilon), members_of(members), count, base,
                 until, reinterpret_cast<void*>(queue));
  if (!wrong.empty()) throw std::runtime_error(wrong);
}

py::dict shape() {
  py::dict d;
  d["layers"] = (int)Tiny::LAYERS;
  d["positions"] = (int)Tiny::T;
  d["d_model"] = (int)Tiny::D;
  d["d_ff"] = (int)Tiny::FF;
  d["vocabulary"] = (int)Tiny::V;
  d["flat_size"] = (int)places<Tiny>().size;
  py::dict bytes;  // of a thread block's shared memory, by sequences of a microbatch
  bytes[py::int_(2)] = 4 * chip_floats<Tiny, 2>();
  bytes[py::int_(4)] = 4 * chip_floats<Tiny, 4>();
  d["chip_bytes"] = bytes;
  return d;
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "The persistent member step of csrc/cuda; addresses are the device's.";
  m.def("shape", &shape, "The one network that the kernel is compiled for.");
  m.def("train", &train, py::arg("stream"), py::arg("optimizer"), py::arg("batch"),
        py::arg("epsilon"), py::arg("members"), py::arg("count"), py::arg("base"), py::arg("until"),
        py::arg("stream_handle"));
}

}  // namespace cuda
}  // namespace compfast
