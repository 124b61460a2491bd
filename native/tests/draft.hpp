// A small student file as text and values, to be changed before it is written.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace limbeck::test {

struct DraftTensor {
  std::string name, dtype;  // "F32" or "F64"
  std::vector<int> shape;
  std::vector<double> values;
};

struct Draft {
  std::string card;  // the JSON text
  std::vector<DraftTensor> tensors;

  std::string header() const;  // JSON
  std::string data() const;
  std::string file() const { return file_of(header(), data()); }

  Draft with_card(const std::string &from, const std::string &to) const;
  std::string with_header(const std::string &from, const std::string &to) const;  // the file
  static std::string file_of(const std::string &header, const std::string &data);
};

// H and Si, F = 3, B = 2, H = 2, R = 2; values[i] of the k-th tensor of the layout is 10 k + i / 8.
Draft small_draft(int interactions, const std::string &dtype);

// A JSON string with quotes.
std::string json_string(const std::string &text);

// The text with its first `from` replaced; a test that replaces nothing is an error.
std::string replaced(const std::string &text, const std::string &from, const std::string &to);

}  // namespace limbeck::test
