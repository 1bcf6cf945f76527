// compfast._native: raw buffers in, raw buffers out; shapes and meaning are checked in Python
// (compfast/engines/native.py). No torch headers.
#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdlib>

#include "anchor.h"
#include "bindings_ops.h"
#include "bindings_roofline.h"
#include "group.h"
#include "isa.h"

namespace py = pybind11;
using namespace compfast;

namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

template <typename T>
void read(const py::dict& from, const char* name, T& to) {
  to = from[name].cast<T>();
}

ViewRecord view_record(const py::dict& d) {
  ViewRecord v;
  read(d, "value", v.value);
  read(d, "grad", v.grad);
  read(d, "width", v.width);
  read(d, "ld", v.ld);
  read(d, "rows", v.rows);
  read(d, "mode", v.mode);
  return v;
}

OpRecord op_record(const py::dict& d) {
  OpRecord op;
  read(d, "kind", op.kind);
  for (py::handle view : d["inputs"].cast<py::list>())
    op.in[op.inputs++] = view_record(view.cast<py::dict>());
  if (!d["output"].is_none()) op.out = view_record(d["output"].cast<py::dict>());
  read(d, "weight", op.weight);
  read(d, "weight2", op.weight2);
  read(d, "bias", op.bias);
  read(d, "weight_ld", op.weight_ld);
  read(d, "d_out", op.d_out);
  read(d, "d_in", op.d_in);
  read(d, "packed", op.packed);
  read(d, "packed_bias", op.packed_bias);
  read(d, "packed_ld", op.packed_ld);
  read(d, "bf16", op.bf16);
  read(d, "packed_back", op.packed_back);
  read(d, "operands", op.operands);
  read(d, "activation", op.activation);
  read(d, "slope", op.slope);
  read(d, "factor", op.factor);
  read(d, "slope_applied", op.slope_applied);
  read(d, "saved", op.saved);
  read(d, "heads", op.heads);
  read(d, "d_k", op.d_k);
  read(d, "d_v", op.d_v);
  read(d, "causal", op.causal);
  read(d, "shared", op.shared);
  read(d, "head_width", op.head_width);
  read(d, "narrow", op.narrow);
  read(d, "epsilon", op.epsilon);
  return op;
}

AnchorStream anchor_stream(const Array<int32_t>& pairs, const Array<int32_t>& combos,
                           const py::dict& d) {
  AnchorStream s;
  s.pairs = pairs.data();
  s.pair_count = (int32_t)pairs.shape(0);
  s.combos = combos.data();
  s.combo_count = (int32_t)combos.shape(0);
  read(d, "item_low", s.item_low);
  read(d, "item_count", s.item_count);
  read(d, "seq_len", s.positions);
  read(d, "words", s.words);
  read(d, "group_size", s.group_size);
  return s;
}

std::string forced_isa() {
  const char* name = std::getenv("COMPFAST_ISA");
  return name ? name : "";
}

// Owns what the C++ group points to.
class PyGroup {
 public:
  PyGroup(const py::dict& plan, const py::dict& tables, const py::dict& stream,
          const py::dict& arrays, int threads) {
    for (py::handle op : plan["ops"].cast<py::list>())
      ops_.push_back(op_record(op.cast<py::dict>()));
    for (py::handle s : plan["segments"].cast<py::list>()) {
      auto [offset, length, decay] = s.cast<std::tuple<int64_t, int64_t, bool>>();
      segments_.push_back({offset, length, decay});
    }
    PlanRecord p;
    p.ops = ops_.data();
    p.op_count = (int32_t)ops_.size();
    p.segments = segments_.data();
    p.segment_count = (int32_t)segments_.size();
    read(plan, "flat_size", p.flat_size);
    read(plan, "packed_size", p.packed_size);
    read(plan, "workspace_size", p.workspace_size);
    read(plan, "positions", p.positions);
    read(plan, "microbatch", p.microbatch);
    read(plan, "batch", p.batch);
    read(plan, "vocabulary", p.vocabulary);
    read(plan, "loss_all", p.loss_all);
    plan_ = p;

    Optimizer o;
    read(tables, "beta1", o.beta1);
    read(tables, "beta2", o.beta2);
    read(tables, "eps", o.eps);
    o.scale = keep<double>(tables["scale"]);
    schedule_ = tables["scale"].cast<py::array>().shape(0);
    o.offset = keep<double>(tables["offset"]);
    o.correction1 = keep<double>(tables["correction1"]);
    o.correction2 = keep<double>(tables["correction2"]);

    const auto pairs = stream["pairs"].cast<Array<int32_t>>();
    const auto combos = stream["combos"].cast<Array<int32_t>>();
    kept_.push_back(pairs);
    kept_.push_back(combos);

    GroupArrays a;
    a.params = keep<float>(arrays["params"]);
    a.m = keep<float>(arrays["m"]);
    a.v = keep<float>(arrays["v"]);
    step_ = a.step = keep<int64_t>(arrays["step"]);
    a.status = keep<uint8_t>(arrays["status"]);
    a.seed = keep<uint64_t>(arrays["seed"]);
    a.lr = keep<double>(arrays["lr"]);
    a.weight_decay = keep<double>(arrays["weight_decay"]);
    a.clip = keep<double>(arrays["clip"]);
    a.members = members_ = arrays["step"].cast<py::array>().shape(0);
    kernels_ = &select_kernels(forced_isa());
    group_ = std::make_unique<Group>(*kernels_, plan_, o, anchor_stream(pairs, combos, stream), a,
                                     threads);
  }

  bool advance(int64_t until, int64_t base, Array<float>& loss, Array<float>& norm,
               const py::object& tick) {
    const int64_t columns = loss.shape(1);
    float *l = loss.mutable_data(), *g = norm.mutable_data();
    py::gil_scoped_release release;
    return group_->advance(until, base, columns, l, g, [&](int64_t done) {
      py::gil_scoped_acquire acquire;
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
      if (!tick.is_none()) tick(done);
    });
  }

  py::tuple gradients(const Array<int32_t>& tokens, const Array<int32_t>& targets) {
    Array<float> loss(members_);
    Array<float> gradient({members_, plan_.flat_size});
    const int32_t *t = tokens.data(), *y = targets.data();
    float *l = loss.mutable_data(), *g = gradient.mutable_data();
    const int64_t count = tokens.shape(0);
    {
      py::gil_scoped_release release;
      group_->gradients(t, y, count, l, g);
    }
    return py::make_tuple(loss, gradient);
  }

  Array<float> logits(const Array<int64_t>& members, const Array<int32_t>& tokens) {
    Array<float> out({members.shape(0), tokens.shape(0), (py::ssize_t)plan_.vocabulary});
    const int64_t* m = members.data();
    const int32_t* t = tokens.data();
    float* o = out.mutable_data();
    const int64_t n = members.shape(0), count = tokens.shape(0);
    py::gil_scoped_release release;
    group_->logits(m, n, t, count, o, nullptr);
    return out;
  }

  Array<int32_t> predict(const Array<int64_t>& members, const Array<int32_t>& tokens) {
    Array<int32_t> best({members.shape(0), tokens.shape(0)});
    const int64_t* m = members.data();
    const int32_t* t = tokens.data();
    int32_t* b = best.mutable_data();
    const int64_t n = members.shape(0), count = tokens.shape(0);
    py::gil_scoped_release release;
    group_->logits(m, n, t, count, nullptr, b);
    return best;
  }

  py::dict profile(int64_t member, int64_t steps) {
    if (member < 0 || member >= members_ || steps < 1 || steps > schedule_ - step_[member])
      throw std::invalid_argument(
          "compfast._native: no such member, or steps outside its training");
    Array<double> forward(plan_.op_count), backward(plan_.op_count), phases(PHASES);
    Array<float> loss(steps), norm(steps);
    double total = 0;
    const ProfileArrays to{forward.mutable_data(), backward.mutable_data(),
                           phases.mutable_data(),  &total,
                           loss.mutable_data(),    norm.mutable_data()};
    int64_t done = 0;
    {
      py::gil_scoped_release release;
      done = group_->profile(member, steps, to);
    }
    py::dict result;
    result["forward"] = forward;
    result["backward"] = backward;
    result["phases"] = phases;
    result["total"] = total;
    result["steps"] = done;
    result["loss"] = loss;
    result["grad_norm"] = norm;
    return result;
  }

  void request_stop() { group_->request_stop(); }
  std::string isa() const { return kernels_->isa; }

 private:
  // The arrays must already have the right type: a converted copy would not be the caller's.
  template <typename T>
  T* keep(const py::handle& object) {
    if (!py::isinstance<Array<T>>(object))
      throw py::type_error("compfast._native: an array has the wrong type or is not contiguous");
    auto array = py::reinterpret_borrow<Array<T>>(object);
    kept_.push_back(array);
    return const_cast<T*>(array.data());
  }

  std::vector<OpRecord> ops_;
  std::vector<Segment> segments_;
  std::vector<py::object> kept_;
  PlanRecord plan_;
  int64_t members_ = 0, schedule_ = 0;  // schedule: steps that the tables reach
  const int64_t* step_ = nullptr;
  const KernelTable* kernels_ = nullptr;
  std::unique_ptr<Group> group_;
};

std::vector<std::string> names(const std::vector<const KernelTable*>& tables) {
  std::vector<std::string> result;
  for (const KernelTable* table : tables) result.push_back(table->isa);
  return result;
}

py::tuple py_anchor_batch(const py::dict& stream, uint64_t seed, int64_t step, int32_t batch) {
  const auto pairs = stream["pairs"].cast<Array<int32_t>>();
  const auto combos = stream["combos"].cast<Array<int32_t>>();
  const AnchorStream s = anchor_stream(pairs, combos, stream);
  Array<int32_t> tokens({(py::ssize_t)batch, (py::ssize_t)s.positions});
  Array<int32_t> targets(batch);
  anchor_batch(s, seed, step, batch, 0, batch, tokens.mutable_data(), targets.mutable_data());
  return py::make_tuple(tokens, targets);
}

Array<uint32_t> py_philox(const std::array<uint32_t, 4>& counter, uint64_t seed) {
  const Block block = philox({{counter[0], counter[1], counter[2], counter[3]}}, seed);
  Array<uint32_t> out(4);
  std::memcpy(out.mutable_data(), block.word, sizeof block.word);
  return out;
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.def("compiled_isas", [] { return names(compiled_kernels()); });
  m.def("supported_isas", [] { return names(supported_kernels()); });
  m.def("selected_isa", [] { return std::string(select_kernels(forced_isa()).isa); });
  m.def("build_info", [] { return std::string(COMPFAST_BUILD_INFO); });
  m.def("philox", &py_philox);
  m.def("feistel", &feistel);
  m.def("anchor_batch", &py_anchor_batch);
  bind_ops(m);
  bind_roofline(m);
  py::class_<PyGroup>(m, "Group")
      .def(py::init<const py::dict&, const py::dict&, const py::dict&, const py::dict&, int>())
      .def("advance", &PyGroup::advance, py::arg("until"), py::arg("base"),
           py::arg("loss").noconvert(), py::arg("grad_norm").noconvert(), py::arg("tick"))
      .def("gradients", &PyGroup::gradients, py::arg("tokens"), py::arg("targets"))
      .def("logits", &PyGroup::logits, py::arg("members"), py::arg("tokens"))
      .def("predict", &PyGroup::predict, py::arg("members"), py::arg("tokens"))
      .def("profile", &PyGroup::profile, py::arg("member"), py::arg("steps"))
      .def("request_stop", &PyGroup::request_stop)
      .def("isa", &PyGroup::isa);
}
