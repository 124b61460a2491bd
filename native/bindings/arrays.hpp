// Arrays that come from Python, checked, and arrays for Python that own what a vector held.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <string>
#include <utility>
#include <vector>

namespace nb = nanobind;

template <class T>
using In = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;

// Without a copy: `values` is empty afterwards.
template <class T>
nb::ndarray<nb::numpy, T> give(std::vector<T> &&values, std::vector<std::size_t> shape) {
  auto *kept = new std::vector<T>(std::move(values));
  nb::capsule owner(kept, [](void *p) noexcept { delete static_cast<std::vector<T> *>(p); });
  return nb::ndarray<nb::numpy, T>(kept->data(), shape.size(), shape.data(), owner);
}

// A macro, so that the message is built only when it is needed: some of these run once a weight or pair.
#define require(ok, message)                                        \
  do {                                                              \
    if (!(ok)) throw nb::value_error(std::string(message).c_str()); \
  } while (0)
