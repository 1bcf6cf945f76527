// NumPy arrays and dictionaries as the bindings take them: a value or an array that is not what
// is needed is a TypeError or ValueError that names it.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "checks.h"

namespace compfast {

template <typename T>
using Array = pybind11::array_t<T, pybind11::array::c_style>;

// KeyError where it is missing.
template <typename T>
T value_of(const pybind11::dict& from, const char* name) {
  const pybind11::object found = from[name];
  try {
    return found.cast<T>();
  } catch (const pybind11::cast_error&) {
    throw pybind11::type_error(std::string(name) + " is a " + Py_TYPE(found.ptr())->tp_name +
                               " that is not a value of its type, or out of its range");
  }
}

template <typename T>
void read(const pybind11::dict& from, const char* name, T& to) {
  to = value_of<T>(from, name);
}

template <typename T>
std::string shape_text(const std::vector<T>& shape) {
  std::string text;
  for (T size : shape) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "[" + text + "]";
}

// -1 in `shape`: any size.
inline void require_shape(const char* name, const pybind11::array& array,
                          const std::vector<int64_t>& shape) {
  const std::vector<int64_t> found(array.shape(), array.shape() + array.ndim());
  bool same = found.size() == shape.size();
  for (size_t i = 0; same && i < shape.size(); i++) same = shape[i] < 0 || shape[i] == found[i];
  if (!same)
    refuse(std::string(name) + " has shape " + shape_text(found) + "; " + shape_text(shape) +
           " is needed (-1: any)");
}

template <typename T>
void require_aligned(const char* name, const pybind11::array& array) {
  if (reinterpret_cast<uintptr_t>(array.data()) % alignof(T) != 0)
    refuse(std::string(name) + " is not aligned");
}

// An array that the caller goes on owning: it must have the right type already, since a converted
// copy would not be the caller's.
template <typename T>
Array<T> own_array(const pybind11::dict& from, const char* name, const std::vector<int64_t>& shape,
                   bool writable) {
  const pybind11::object found = from[name];
  if (!pybind11::isinstance<Array<T>>(found))
    throw pybind11::type_error(std::string(name) + " is no contiguous array of the right type");
  auto array = pybind11::reinterpret_borrow<Array<T>>(found);
  require_shape(name, array, shape);
  require_aligned<T>(name, array);
  if (writable && !array.writeable()) refuse(std::string(name) + " cannot be written");
  return array;
}

// An array that is only read: converted where that loses nothing.
template <typename T>
Array<T> read_array(const pybind11::dict& from, const char* name,
                    const std::vector<int64_t>& shape) {
  auto array = Array<T>::ensure(from[name]);
  if (!array) {
    PyErr_Clear();
    throw pybind11::type_error(std::string(name) + " is no array of the right type");
  }
  require_shape(name, array, shape);
  require_aligned<T>(name, array);
  return array;
}

template <typename T>
void require_values(const char* name, const Array<T>& array, int64_t limit) {
  const T* values = array.data();
  for (int64_t i = 0; i < array.size(); i++) require_between(name, values[i], 0, limit - 1);
}

}  // namespace compfast
