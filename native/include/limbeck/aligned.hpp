// Memory whose rows begin with a cache line: a vector of AVX-512 that crosses two lines costs two loads, and
// malloc gives addresses that are odd multiples of 16. New values are not touched before they are written.
#pragma once

#include <cstddef>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

namespace limbeck {

template <class T>
struct Aligned {
  using value_type = T;
  static constexpr std::align_val_t kAlignment{64};
  Aligned() = default;
  template <class U>
  Aligned(const Aligned<U> &) {}
  T *allocate(std::size_t n) {
    if (n > std::size_t(-1) / sizeof(T)) throw std::bad_alloc();
    T *p = static_cast<T *>(::operator new(n * sizeof(T), kAlignment));
#ifdef LIMBECK_POISON  // the tests' build: what is read before it is written is not a number
    std::memset(static_cast<void *>(p), 0xff, n * sizeof(T));
#endif
    return p;
  }
  void deallocate(T *p, std::size_t) { ::operator delete(p, kAlignment); }
  // resize(n) leaves numbers as they are; resize(n, x) and assign(n, x) do not
  template <class U>
  void construct(U *p) {
    ::new (static_cast<void *>(p)) U;
  }
  template <class U, class... Arguments>
  void construct(U *p, Arguments &&...arguments) {
    ::new (static_cast<void *>(p)) U(std::forward<Arguments>(arguments)...);
  }
  template <class U>
  bool operator==(const Aligned<U> &) const {
    return true;
  }
  template <class U>
  bool operator!=(const Aligned<U> &) const {
    return false;
  }
};

template <class T>
using Array = std::vector<T, Aligned<T>>;

}  // namespace limbeck
