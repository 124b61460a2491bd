// The safetensors container of a student file: its header, its card's text, and the tensors' places.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "limbeck/json.hpp"
#include "limbeck/student_file.hpp"

namespace limbeck {

using Shape = std::vector<std::size_t>;

struct Header {
  json::Value json;
  const unsigned char *data = nullptr;
  std::size_t data_size = 0;
};

struct Tensor {
  std::string dtype;  // "F32" or "F64"
  Shape shape;
  std::size_t begin = 0, end = 0;  // bytes of the data
};

using Tensors = std::vector<std::pair<std::string, Tensor>>;

Header read_header(const unsigned char *bytes, std::size_t size, const std::string &where);
std::string card_text(const Header &header, const std::string &where);

// All tensors by their place in the data, which they fill without gap or overlap.
Tensors read_tensors(const Header &header, const std::string &where);

// Appends the tensor's values as double.
void append_values(const Header &header, const Tensor &tensor, std::vector<double> &to);

[[noreturn]] void not_a_student(const std::string &where, const std::string &reason);

// A name from the file in an error: quoted, and cut where someone put a megabyte there.
std::string quoted(std::string text);

// A number that is written as a count: an integer of no sign, below 2^53, which a double holds exactly.
std::optional<std::size_t> as_count(const json::Value &value);

}  // namespace limbeck
