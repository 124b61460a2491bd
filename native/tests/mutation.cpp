#include "mutation.hpp"

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>

#include "limbeck/json.hpp"
#include "limbeck/student_file.hpp"

namespace limbeck::test {
namespace {

const char *const kTokens[] = {"0",
                               "1",
                               "-1",
                               "-0",
                               "2",
                               "4096",
                               "4097",
                               "118",
                               "119",
                               "1.0",
                               "0.5",
                               "1e999",
                               "-1e999",
                               "1e-999",
                               "1e5",
                               "4294967296",
                               "2147483648",
                               "9007199254740992",
                               "18446744073709551615",
                               "18446744073709551616",
                               "NaN",
                               "Infinity",
                               "-Infinity",
                               "null",
                               "true",
                               "false",
                               "{}",
                               "[]",
                               "[",
                               "]",
                               "{",
                               "}",
                               ",",
                               ":",
                               "\"",
                               "\\",
                               "\"\"",
                               "\"embedding\"",
                               "\"1\"",
                               "\"14\"",
                               "\"F32\"",
                               "\"F64\"",
                               "\"F16\"",
                               "\"painn\"",
                               "\"\\ud800\"",
                               "\"\\ud83d\\ude00\"",
                               "\"\\u0000\"",
                               "\"\x80\"",
                               "[[[[[[[[",
                               "{\"a\":{\"a\":",
                               "\"dtype\"",
                               "\"elements\"",
                               "\"__metadata__\"",
                               "0.0000000000000000000000000001",
                               "99999999999999999999999999999999999999999999"};

std::vector<std::string> tokens_of(const std::string &text) {
  std::vector<std::string> tokens;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t end = at + 1;
    if (text[at] == '"') {
      while (end < text.size() && text[end] != '"') end += text[end] == '\\' ? 2 : 1;
      end = std::min(end + 1, text.size());
    } else if (!std::strchr("{}[]:, ", text[at])) {
      while (end < text.size() && !std::strchr("{}[]:, \"", text[end])) ++end;
    }
    tokens.push_back(text.substr(at, end - at));
    at = end;
  }
  return tokens;
}

std::string with_tokens_changed(Random &random, const std::string &text) {
  std::vector<std::string> tokens = tokens_of(text);
  for (std::size_t k = 1 + random.below(3); k-- > 0;) {
    if (tokens.empty()) break;
    const std::size_t at = random.below(tokens.size()), other = random.below(tokens.size());
    const auto place = tokens.begin() + static_cast<std::ptrdiff_t>(at);
    switch (random.below(6)) {
      case 0:
        tokens.erase(place);
        break;
      case 1:
        std::swap(tokens[at], tokens[other]);
        break;
      case 2:
        tokens[at] = tokens[other];
        break;
      case 3:
        tokens.insert(place, std::string(tokens[other]));
        break;
      case 4:
        tokens[at] += std::to_string(random.below(10));
        break;
      default:
        tokens[at] = kTokens[random.below(std::size(kTokens))];
    }
  }
  std::string out;
  for (const std::string &token : tokens) out += token;
  return out;
}

void change_bytes(Random &random, std::string &file, const std::string &other) {
  for (std::size_t k = 1 + random.below(4); k-- > 0;) {
    if (file.empty()) return;
    const std::size_t at = random.below(file.size()), count = 1 + random.below(16);
    switch (random.below(8)) {
      case 0:
      case 1:
        file[at] = static_cast<char>(file[at] ^ (1 << random.below(8)));
        break;
      case 2:
        file[at] = static_cast<char>(random.bits() >> 56);
        break;
      case 3:
        file.erase(at, count);
        break;
      case 4:
        file.insert(at, count, static_cast<char>(random.bits() >> 56));
        break;
      case 5:
        file.replace(at, count, other, random.below(other.size()), count);
        break;
      case 6:
        file.insert(at, file.substr(random.below(file.size()), count));
        break;
      default:
        file.resize(random.below(8) ? file.size() - std::min(file.size(), count) : at);
    }
  }
}

void change_length(Random &random, std::string &file) {
  std::uint64_t length = 0;
  for (int k = 7; k >= 0; --k) length = length << 8 | static_cast<unsigned char>(file[std::size_t(k)]);
  const std::uint64_t choices[] = {0,
                                   1,
                                   2,
                                   length - 1,
                                   length + 1,
                                   length + 8,
                                   file.size() - 8,
                                   file.size() - 7,
                                   100'000'001,
                                   0x7FFFFFFF,
                                   ~std::uint64_t(0),
                                   random.bits(),
                                   random.below(8192)};
  length = choices[random.below(std::size(choices))];
  for (int k = 0; k < 8; ++k) file[std::size_t(k)] = static_cast<char>(length >> (8 * k) & 0xFF);
}

void change_values(Random &random, Draft &draft) {
  const double choices[] = {0,     -0.0, 1e308, 1e39, std::numeric_limits<double>::infinity(), std::nan(""),
                            5e-324};
  DraftTensor &tensor = draft.tensors[random.below(draft.tensors.size())];
  switch (random.below(5)) {
    case 0:
      tensor.values[random.below(tensor.values.size())] = choices[random.below(std::size(choices))];
      break;
    case 1:
      tensor.values.pop_back();
      break;
    case 2:
      tensor.dtype = random.below(2) ? "F32" : "F64";
      break;
    case 3:
      std::swap(tensor, draft.tensors[random.below(draft.tensors.size())]);
      break;
    default:
      tensor.shape[random.below(tensor.shape.size())] = static_cast<int>(random.below(5));
      break;
  }
}

void expect(bool condition, const char *what) {
  if (!condition) throw std::logic_error(what);
}

void expect_sound(const StudentFile &s) {
  const std::size_t n = s.elements.size();
  expect(n >= 1 && s.hp.elements == static_cast<int>(n), "elements");
  for (std::size_t k = 0; k < n; ++k)
    expect(s.elements[k] > (k ? s.elements[k - 1] : 0) && s.elements[k] < 119, "elements not ascending");
  expect(s.weights.size() == ParameterLayout(s.hp).total, "number of weights");
  expect(s.references.size() == n && s.zbl_radius.size() == n * n && s.shortest_pair.size() == n * n,
         "sizes");
  for (const auto *values : {&s.weights, &s.references, &s.zbl_radius, &s.shortest_pair})
    for (const double value : *values) expect(std::isfinite(value), "a value that is not finite");
  for (const double value : {s.hp.cutoff, s.hp.norm_offset, s.hp.energy_scale})
    expect(value > 0 && std::isfinite(value), "a length that is not positive");
  expect(s.dtype == "float32" || s.dtype == "float64", "dtype");
}

}  // namespace

Base::Base(Draft from) : draft(std::move(from)), header(draft.header()), data(draft.data()) {
  file = Draft::file_of(header, data);
}

std::string mutated(Random &random, const std::vector<Base> &bases) {
  const Base &base = bases[random.below(bases.size())];
  const std::size_t kind = random.below(8);
  if (kind <= 1) {
    Draft draft = base.draft;
    draft.card = with_tokens_changed(random, draft.card);
    return draft.file();
  }
  if (kind == 2) {
    Draft draft = base.draft;
    change_values(random, draft);
    return draft.file();
  }
  if (kind <= 4) return Draft::file_of(with_tokens_changed(random, base.header), base.data);
  std::string file = base.file;
  if (kind == 5)
    change_length(random, file);
  else
    change_bytes(random, file, bases[random.below(bases.size())].file);
  return file;
}

std::string read_mutated(const unsigned char *bytes, std::size_t size) {
  // a copy of exactly this size, so that AddressSanitizer sees the first byte read beyond it
  const std::unique_ptr<unsigned char[]> copy(new unsigned char[size]);
  if (size) std::memcpy(copy.get(), bytes, size);
  try {
    expect_sound(parse_student(copy.get(), size, "s"));
  } catch (const FileError &error) {
    const std::string line = error.what();
    expect(line.size() > 10 && line.compare(0, 3, "s: ") == 0, "a line without the place");
    for (const char *p = line.data(), *end = p + line.size(); p < end;) {
      const int length = json::utf8_length(p, end);
      expect(length > 0 && static_cast<unsigned char>(*p) >= 0x20, "a line that cannot be printed");
      p += length;
    }
    return line;
  }
  return "";
}

}  // namespace limbeck::test
