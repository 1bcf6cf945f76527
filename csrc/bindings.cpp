// compfast._native: raw buffers in, raw buffers out. What they mean is checked in Python
// (compfast/engines/native.py); here, that no number leads outside of them. No torch headers.
#include <pybind11/functional.h>

#include <cstdlib>

#include "bindings_arrays.h"
#include "bindings_ops.h"
#include "bindings_records.h"
#include "bindings_roofline.h"
#include "bindings_streams.h"
#include "group.h"
#include "isa.h"
#include "plan_checks.h"

namespace py = pybind11;
using namespace compfast;

namespace {

std::string forced_isa() {
  const char* name = std::getenv("COMPFAST_ISA");
  return name ? name : "";
}

// A group's workspaces serve one call at a time.
class Turn {
 public:
  explicit Turn(std::atomic<bool>& taken) : taken_(taken) {
    if (taken_.exchange(true)) refuse("the group is at work; a call must wait for the last");
  }
  ~Turn() { taken_.store(false); }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  std::atomic<bool>& taken_;
};

// Owns what the C++ group points to.
class PyGroup {
 public:
  PyGroup(const py::dict& plan, const py::dict& tables, const py::dict& stream,
          const py::dict& arrays, int threads)
      : plan_(plan_record(plan, ops_, segments_)), stream_(checked(plan, stream)) {
    require_threads(threads);
    Optimizer o;
    read(tables, "beta1", o.beta1);
    read(tables, "beta2", o.beta2);
    read(tables, "eps", o.eps);
    o.scale = keep<double>(tables, "scale", {-1});
    schedule_ = value_of<py::array>(tables, "scale").shape(0);
    require_between("steps of the schedule", schedule_, 0, MOST_BLOCKS);
    o.offset = keep<double>(tables, "offset", {schedule_});
    o.correction1 = keep<double>(tables, "correction1", {schedule_});
    o.correction2 = keep<double>(tables, "correction2", {schedule_});
    o.decay = keep<double>(tables, "decay", {schedule_});
    read(tables, "kind", o.kind);
    require_between("kind of the optimizer", o.kind, OPTIMIZER_ADAMW, OPTIMIZER_SGD);
    read(tables, "momentum", o.momentum);
    read(tables, "nesterov", o.nesterov);
    require_between("nesterov", o.nesterov, 0, 1);

    GroupArrays a;
    step_ = a.step = keep<int64_t>(arrays, "step", {-1}, true);
    a.members = members_ = value_of<py::array>(arrays, "step").shape(0);
    require_between("members", members_, 1, MOST_ELEMENTS);
    a.params = keep<float>(arrays, "params", {members_, plan_.flat_size}, true);
    a.m = keep<float>(arrays, "m", {members_, plan_.flat_size}, true);
    a.v = keep<float>(arrays, "v", {members_, plan_.flat_size}, true);
    status_ = a.status = keep<uint8_t>(arrays, "status", {members_}, true);
    a.seed = keep<uint64_t>(arrays, "seed", {members_});
    a.dropout_seed = keep<uint64_t>(arrays, "dropout_seed", {members_});
    a.lr = keep<double>(arrays, "lr", {members_});
    a.weight_decay = keep<double>(arrays, "weight_decay", {members_, DECAYS});
    a.clip = keep<double>(arrays, "clip", {members_});
    require_host_members(stream_);
    kernels_ = &select_kernels(forced_isa());
    group_ = std::make_unique<Group>(*kernels_, plan_, o, stream_.record, a, threads);
  }

  bool advance(int64_t until, int64_t base, Array<float>& loss, Array<float>& norm,
               const py::object& tick) {
    require_between("until", until, 0, schedule_);
    require_between("base", base, 0, until);
    const int64_t columns = until - base;
    require_shape("loss", loss, {members_, columns});
    require_shape("grad_norm", norm, {members_, columns});
    require_aligned<float>("loss", loss);
    require_aligned<float>("grad_norm", norm);
    for (int64_t i = 0; i < members_; i++)
      if (status_[i] == ACTIVE && step_[i] < until) {
        require_between("a member's step", step_[i], base, until);
        stream_.require_steps(i, step_[i], until);
      }
    float *l = loss.mutable_data(), *g = norm.mutable_data();
    const Turn turn(taken_);
    py::gil_scoped_release release;
    return group_->advance(until, base, columns, l, g, [&](int64_t done) {
      py::gil_scoped_acquire acquire;
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
      if (!tick.is_none()) tick(done);
    });
  }

  py::tuple gradients(const py::array& inputs, const py::array& targets) {
    Given batch;
    const int64_t count = sequences(inputs, batch);
    require_between("sequences", count, 1, MOST_WIDTH);
    const Ports& p = plan_.ports;
    if (p.numbers)
      batch.answers = numbers("targets", targets, {count, p.asked, p.vocabulary});
    else
      batch.targets = ids("targets", "a target", targets, {count, p.asked}, p.masked ? -1 : 0);
    require_room(members_, times(4, plan_.flat_size));
    Array<float> loss(members_);
    Array<float> gradient({members_, plan_.flat_size});
    float *l = loss.mutable_data(), *g = gradient.mutable_data();
    {
      const Turn turn(taken_);
      py::gil_scoped_release release;
      group_->gradients(batch, count, l, g);
    }
    return py::make_tuple(loss, gradient);
  }

  Array<float> outputs(const Array<int64_t>& members, const py::array& inputs) {
    Given batch;
    const int64_t n = chosen(members), count = sequences(inputs, batch);
    const Ports& p = plan_.ports;
    require_room(times(n, count), times(4 * p.asked, p.vocabulary));
    Array<float> out({n, count, (int64_t)p.asked, (int64_t)p.vocabulary});
    compute(members, batch, count, out.mutable_data(), nullptr);
    return out;
  }

  Array<int32_t> predict(const Array<int64_t>& members, const py::array& inputs) {
    Given batch;
    const int64_t n = chosen(members), count = sequences(inputs, batch);
    require_room(times(n, count), 4 * plan_.ports.asked);
    Array<int32_t> best({n, count, (int64_t)plan_.ports.asked});
    compute(members, batch, count, nullptr, best.mutable_data());
    return best;
  }

  py::dict profile(int64_t member, int64_t steps) {
    require_between("member", member, 0, members_ - 1);
    require_between("the member's step", step_[member], 0, schedule_);
    require_between("steps", steps, 1, schedule_ - step_[member]);
    stream_.require_steps(member, step_[member], step_[member] + steps);
    Array<double> forward(plan_.op_count), backward(plan_.op_count), phases(PHASES);
    Array<float> loss(steps), norm(steps);
    double total = 0;
    const ProfileArrays to{forward.mutable_data(), backward.mutable_data(),
                           phases.mutable_data(),  &total,
                           loss.mutable_data(),    norm.mutable_data()};
    int64_t done = 0;
    {
      const Turn turn(taken_);
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

  void feed(const py::dict& stream) {
    const Turn turn(taken_);
    Stream next = checked(stream);
    require_host_members(next);
    group_->draw_from(next.record);
    stream_ = std::move(next);
  }

  void request_stop() { group_->request_stop(); }
  std::string isa() const { return kernels_->isa; }

 private:
  Stream checked(const py::dict& plan, const py::dict& stream) {
    require_between("positions", plan_.ports.positions, 1, MOST_WIDTH);
    if (!py::object(plan["buckets"]).is_none())
      plan_.buckets = keep<int32_t>(plan, "buckets", {2 * (int64_t)plan_.ports.positions - 1});
    check_plan(plan_);
    return checked(stream);
  }

  Stream checked(const py::dict& stream) const {
    const Ports& p = plan_.ports;
    Stream s(stream, plan_.batch, p.vocabulary);
    require_between("seq_len", s.ports.positions, p.positions, p.positions);
    require_between("width", s.ports.width, p.width, p.width);
    require_between("asked", s.ports.asked, p.asked, p.asked);
    require_between("numbers", s.ports.numbers, p.numbers, p.numbers);
    require_between("masked", s.ports.masked, p.masked, p.masked);
    if (p.numbers) require_between("outputs", s.ports.vocabulary, p.vocabulary, p.vocabulary);
    return s;
  }

  // A batch for each of the group's members, and for nobody else.
  void require_host_members(const Stream& s) const {
    if (s.record.kind == STREAM_HOST)
      require_between("members of the buffer", s.record.host.members, members_, members_);
  }

  template <typename T>
  T* keep(const py::dict& from, const char* name, const std::vector<int64_t>& shape,
          bool writable = false) {
    const Array<T> array = own_array<T>(from, name, shape, writable);
    kept_.push_back(array);
    return const_cast<T*>(array.data());
  }

  // The array itself, which is not converted: what comes back is read while the caller's lives.
  template <typename T>
  static const T* data_of(const char* name, const py::array& array,
                          const std::vector<int64_t>& shape) {
    if (!py::isinstance<Array<T>>(array))
      throw py::type_error(std::string(name) + " is no contiguous array of the right type");
    require_shape(name, array, shape);
    require_aligned<T>(name, array);
    return static_cast<const T*>(array.data());
  }

  const float* numbers(const char* name, const py::array& array,
                       const std::vector<int64_t>& shape) const {
    return data_of<float>(name, array, shape);
  }

  const int32_t* ids(const char* name, const char* one, const py::array& array,
                     const std::vector<int64_t>& shape, int64_t least = 0) const {
    const int32_t* data = data_of<int32_t>(name, array, shape);
    for (int64_t i = 0; i < array.size(); i++)
      require_between(one, data[i], least, plan_.ports.vocabulary - 1);
    return data;
  }

  // How many there are; `batch` gets where they lie.
  int64_t sequences(const py::array& inputs, Given& batch) const {
    const Ports& p = plan_.ports;
    if (p.width)
      batch.vectors = numbers("inputs", inputs, {-1, p.positions, p.width});
    else
      batch.tokens = ids("tokens", "a token", inputs, {-1, p.positions});
    return inputs.shape(0);
  }

  int64_t chosen(const Array<int64_t>& members) const {
    require_shape("members", members, {-1});
    require_aligned<int64_t>("members", members);
    require_values("a member", members, members_);
    return members.shape(0);
  }

  void compute(const Array<int64_t>& members, const Given& batch, int64_t count, float* out,
               int32_t* best) {
    const int64_t n = members.shape(0);
    const int64_t* m = members.data();
    const Turn turn(taken_);
    py::gil_scoped_release release;
    group_->outputs(m, n, batch, count, out, best);
  }

  std::vector<OpRecord> ops_;
  std::vector<Segment> segments_;
  std::vector<py::object> kept_;
  PlanRecord plan_;
  Stream stream_;
  int64_t members_ = 0, schedule_ = 0;  // schedule: steps that the tables reach
  const int64_t* step_ = nullptr;
  const uint8_t* status_ = nullptr;
  const KernelTable* kernels_ = nullptr;
  std::unique_ptr<Group> group_;
  std::atomic<bool> taken_{false};
};

std::vector<std::string> names(const std::vector<const KernelTable*>& tables) {
  std::vector<std::string> result;
  for (const KernelTable* table : tables) result.push_back(table->isa);
  return result;
}

template <typename T>
py::array filled(Array<T> array, T*& to) {
  to = array.mutable_data();
  return array;
}

py::tuple py_task_batch(const py::dict& stream, uint64_t seed, int64_t step, int32_t batch,
                        int64_t member) {
  const Stream s(stream, batch, MOST_WIDTH);
  require_between("step", step, 0, MOST_BLOCKS - 1);
  s.require_steps(member, step, step + 1);
  const Ports& p = s.ports;
  require_room(times(batch, input_count(p) + target_count(p)), 4);
  const py::ssize_t n = batch, t = p.positions, asked = p.asked;
  Batch to;
  py::array inputs, targets;
  if (p.width)
    inputs = filled(Array<float>({n, t, (py::ssize_t)p.width}), to.vectors);
  else
    inputs = filled(Array<int32_t>({n, t}), to.tokens);
  if (p.numbers)
    targets = filled(Array<float>({n, asked, (py::ssize_t)p.vocabulary}), to.answers);
  else if (p.width || p.masked)
    targets = filled(Array<int32_t>({n, asked}), to.targets);
  else {
    require_between("targets of a sequence", asked, 1, 1);
    targets = filled(Array<int32_t>(n), to.targets);
  }
  draw(s.record, seed, member, step, batch, 0, batch, to);
  return py::make_tuple(inputs, targets);
}

uint64_t py_feistel(uint64_t seed, uint32_t epoch, uint64_t index, uint64_t n) {
  constexpr uint64_t most = uint64_t{1} << 62;
  if (n < 1 || n > most) refuse("n is " + std::to_string(n) + "; it must be in 1..2^62");
  if (index >= n)
    refuse("index is " + std::to_string(index) + "; it must be below n = " + std::to_string(n));
  return feistel(seed, epoch, index, n);
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
  m.def("feistel", &py_feistel);
  m.def("task_batch", &py_task_batch, py::arg("stream"), py::arg("seed"), py::arg("step"),
        py::arg("batch"), py::arg("member") = 0);
  bind_ops(m);
  bind_roofline(m);
  py::class_<PyGroup>(m, "Group")
      .def(py::init<const py::dict&, const py::dict&, const py::dict&, const py::dict&, int>())
      .def("advance", &PyGroup::advance, py::arg("until"), py::arg("base"),
           py::arg("loss").noconvert(), py::arg("grad_norm").noconvert(), py::arg("tick"))
      .def("gradients", &PyGroup::gradients, py::arg("inputs"), py::arg("targets"))
      .def("outputs", &PyGroup::outputs, py::arg("members"), py::arg("inputs"))
      .def("predict", &PyGroup::predict, py::arg("members"), py::arg("inputs"))
      .def("profile", &PyGroup::profile, py::arg("member"), py::arg("steps"))
      .def("feed", &PyGroup::feed, py::arg("stream"))
      .def("request_stop", &PyGroup::request_stop)
      .def("isa", &PyGroup::isa);
}
