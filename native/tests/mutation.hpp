// Deterministic mutations of student files, and the check of what the reader makes of them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "draft.hpp"

namespace limbeck::test {

class Random {  // xorshift64* (Vigna 2016, doi:10.1145/2845077)
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u | 1u) {}
  std::uint64_t bits() {
    state_ ^= state_ >> 12, state_ ^= state_ << 25, state_ ^= state_ >> 27;
    return state_ * 0x2545F4914F6CDD1Du;
  }
  std::size_t below(std::size_t n) { return n ? static_cast<std::size_t>((bits() >> 11) % n) : 0; }

 private:
  std::uint64_t state_;
};

struct Base {
  explicit Base(Draft from);
  Draft draft;
  std::string header, data, file;
};

// A file made from one of the bases: bytes, lengths, JSON tokens of header or card, or values changed.
std::string mutated(Random &random, const std::vector<Base> &bases);

// Empty where the file reads as a sound student, the line where it is refused in one clear line; any other
// outcome throws std::logic_error, or ends in a sanitizer's report.
std::string read_mutated(const unsigned char *bytes, std::size_t size);

}  // namespace limbeck::test
