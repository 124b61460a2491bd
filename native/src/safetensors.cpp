#include "safetensors.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace limbeck {
namespace {

using json::Kind;
using json::Value;

constexpr std::size_t kLongestHeader = 100'000'000;  // as the safetensors library

std::string one_line(const std::string &text) {
  std::string out;
  const char *p = text.data(), *end = p + text.size();
  while (p < end) {
    const int length = json::utf8_length(p, end);
    if (length == 0 || (length == 1 && (*p == 0x7F || static_cast<unsigned char>(*p) < 0x20)))
      out += length == 0 ? '?' : ' ';
    else
      out.append(p, static_cast<std::size_t>(length));
    p += std::max(length, 1);
  }
  return out;
}

std::string joined(const std::string &where, const std::string &what, const std::string &got,
                   const std::string &wanted, const std::string &remedy) {
  std::string line = where.empty() ? what : where + ": " + what;
  if (!got.empty()) line += "; got " + got;
  if (!wanted.empty()) line += "; wanted " + wanted;
  if (!remedy.empty()) line += "; remedy: " + remedy;
  return one_line(line);
}

Tensor read_tensor(const std::string &name, const Value &entry, const std::string &where) {
  const auto damaged = [&](const std::string &what) {
    not_a_student(where, "damaged or truncated (" + what + " of " + quoted(name) + ")");
  };
  const Value *dtype = entry.find("dtype"), *shape = entry.find("shape"), *at = entry.find("data_offsets");
  Tensor tensor;
  if (!dtype || dtype->kind != Kind::string) damaged("the type");
  tensor.dtype = dtype->text;
  if (!shape || shape->kind != Kind::array) damaged("the shape");
  for (const Value &item : shape->items) {
    const auto count = as_count(item);
    if (!count) damaged("the shape");
    tensor.shape.push_back(*count);
  }
  if (!at || at->kind != Kind::array || at->items.size() != 2) damaged("the offsets");
  const auto begin = as_count(at->items[0]), end = as_count(at->items[1]);
  if (!begin || !end) damaged("the offsets");
  tensor.begin = *begin, tensor.end = *end;
  return tensor;
}

// Elements times bytes each must be what the offsets span; every product is checked for overflow.
void check_span(const std::string &name, const Tensor &tensor, const std::string &where) {
  if (tensor.dtype != "F32" && tensor.dtype != "F64")
    throw FileError(where, "weight " + quoted(name) + " has the wrong type", quoted(tensor.dtype),
                    "'F32' or 'F64'", "");
  std::size_t bytes = tensor.dtype == "F32" ? 4 : 8;
  for (const std::size_t count : tensor.shape) {
    if (count != 0 && bytes > std::numeric_limits<std::size_t>::max() / count)
      not_a_student(where, "damaged or truncated (the shape of " + quoted(name) + " is beyond any file)");
    bytes *= count;
  }
  if (tensor.end - tensor.begin != bytes)
    not_a_student(where, "damaged or truncated (the offsets of " + quoted(name) + " span " +
                             std::to_string(tensor.end - tensor.begin) + " bytes, its shape " +
                             std::to_string(bytes) + ")");
}

template <class Float, class Bits>
void append_floats(const unsigned char *from, const unsigned char *end, std::vector<double> &to) {
  static_assert(sizeof(Float) == sizeof(Bits) && std::numeric_limits<Float>::is_iec559, "IEEE 754");
  for (; from < end; from += sizeof(Bits)) {
    Bits bits = 0;
    for (std::size_t k = 0; k < sizeof(Bits); ++k) bits |= Bits(from[k]) << (8 * k);
    Float value;
    std::memcpy(&value, &bits, sizeof value);
    to.push_back(static_cast<double>(value));
  }
}

}  // namespace

FileError::FileError(const std::string &where, const std::string &what, const std::string &got,
                     const std::string &wanted, const std::string &remedy)
    : std::runtime_error(joined(where, what, got, wanted, remedy)) {}

void not_a_student(const std::string &where, const std::string &reason) {
  throw FileError(where, "this is no student file", reason, "a .safetensors file written by Limbeck",
                  "limbeck convert reads older .pt files");
}

std::string quoted(std::string text) {
  if (text.size() > 60) text = text.substr(0, 60) + "...";
  return "'" + text + "'";
}

std::optional<std::size_t> as_count(const Value &value) {
  if (value.kind != Kind::number || !value.integer || std::signbit(value.number)) return {};
  if (!(value.number < 9007199254740992.0) ||
      !(value.number < double(std::numeric_limits<std::size_t>::max())))
    return {};
  return static_cast<std::size_t>(value.number);
}

Header read_header(const unsigned char *bytes, std::size_t size, const std::string &where) {
  std::uint64_t length = 0;
  if (size >= 8)
    for (int k = 7; k >= 0; --k) length = length << 8 | bytes[k];
  if (size < 8 || length < 2 || length > std::min<std::uint64_t>(size - 8, kLongestHeader))
    not_a_student(where, "its header length does not fit the file");
  const std::size_t n = static_cast<std::size_t>(length);
  Header header;
  try {
    header.json = json::parse({reinterpret_cast<const char *>(bytes) + 8, n});
  } catch (const json::Error &error) {
    not_a_student(where, std::string("no Limbeck card in its metadata (") + error.what() + ")");
  }
  header.data = bytes + 8 + n;
  header.data_size = size - 8 - n;
  return header;
}

std::string card_text(const Header &header, const std::string &where) {
  const Value *metadata = header.json.find("__metadata__");
  const Value *card = metadata ? metadata->find("limbeck") : nullptr;
  if (!card || card->kind != Kind::string) not_a_student(where, "no Limbeck card in its metadata");
  for (std::size_t k = 0; k < metadata->items.size(); ++k)
    if (metadata->items[k].kind != Kind::string)
      not_a_student(where, "damaged or truncated (metadata " + quoted(metadata->names[k]) + " is no text)");
  return card->text;
}

Tensors read_tensors(const Header &header, const std::string &where) {
  Tensors tensors;
  for (std::size_t k = 0; k < header.json.names.size(); ++k)
    if (const std::string &name = header.json.names[k]; name != "__metadata__")
      tensors.emplace_back(name, read_tensor(name, header.json.items[k], where));
  std::sort(tensors.begin(), tensors.end(), [](const auto &a, const auto &b) {
    return std::make_pair(a.second.begin, a.second.end) < std::make_pair(b.second.begin, b.second.end);
  });
  std::size_t filled = 0;
  for (const auto &[name, tensor] : tensors) {
    if (tensor.begin != filled || tensor.end < tensor.begin || tensor.end > header.data_size)
      not_a_student(where, "damaged or truncated (the offsets of " + quoted(name) + ": " +
                               std::to_string(tensor.begin) + " to " + std::to_string(tensor.end) +
                               " after " + std::to_string(filled) + " of " +
                               std::to_string(header.data_size) + " bytes)");
    check_span(name, tensor, where);
    filled = tensor.end;
  }
  if (filled != header.data_size)
    not_a_student(where, "damaged or truncated (" + std::to_string(header.data_size - filled) +
                             " bytes of data without a name)");
  return tensors;
}

void append_values(const Header &header, const Tensor &tensor, std::vector<double> &to) {
  const unsigned char *from = header.data + tensor.begin, *end = header.data + tensor.end;
  if (tensor.dtype == "F32")
    append_floats<float, std::uint32_t>(from, end, to);
  else
    append_floats<double, std::uint64_t>(from, end, to);
}

}  // namespace limbeck
