// A small strict JSON reader (RFC 8259) for the headers of student files.
//
// Input may be hostile: nesting and the number of values are bounded, names in an object are
// unique (two readers could otherwise read different files), text must be valid UTF-8, and a failure is
// json::Error with the place. Independent of the locale.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace limbeck::json {

struct Error : std::runtime_error {
  Error(const std::string &what, std::size_t at) : runtime_error(what + " at byte " + std::to_string(at)) {}
};

enum class Kind { null, boolean, number, string, array, object };

struct Value {
  Kind kind = Kind::null;
  bool truth = false;              // of a boolean
  bool integer = false;            // of a number: written with neither point nor exponent
  double number = 0;               // beyond double's range: an infinity or zero, as Python reads it
  std::string text;                // of a string, UTF-8
  std::vector<Value> items;        // of an array, or the values of an object
  std::vector<std::string> names;  // of an object, in step with items

  // The member of that name, or nullptr, also where this is no object.
  const Value *find(std::string_view name) const {
    for (std::size_t k = 0; k < names.size(); ++k)
      if (names[k] == name) return &items[k];
    return nullptr;
  }
};

struct Options {
  int depth = 127;                 // as serde_json, which reads safetensors headers elsewhere
  std::size_t values = 1'000'000;  // bounds memory: a value takes far more room than its two bytes of text
  bool python = false;  // also NaN, Infinity, lone surrogates and 1e999, which Python's json reads and writes
};

// Bytes of the UTF-8 character at p, 0 if invalid (overlong, a surrogate, beyond U+10FFFF, cut off).
int utf8_length(const char *p, const char *end);

// The value of a whole text; throws json::Error.
Value parse(std::string_view text, Options options = {});

}  // namespace limbeck::json
