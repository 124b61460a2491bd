#include "limbeck/student_file.hpp"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <iterator>
#include <map>
#include <memory>
#include <new>
#include <system_error>
#include <utility>

#include "card.hpp"
#include "safetensors.hpp"

namespace limbeck {
namespace {

constexpr std::size_t kLargestFile = std::size_t(1) << 31;  // far above any student

std::string shown(const Shape &shape) {
  std::string text = "(";
  for (std::size_t k = 0; k < shape.size(); ++k) text += (k ? ", " : "") + std::to_string(shape[k]);
  return text + (shape.size() == 1 ? ",)" : ")");
}

template <class Items, class Show>
std::string listed(const Items &items, Show show) {
  std::string text = "[";
  for (const auto &item : items) text += (text.size() > 1 ? ", " : "") + show(item);
  return text + "]";
}

// Names and shapes in the order of ParameterLayout, as Architecture.parameter_shapes.
std::vector<std::pair<std::string, Shape>> wanted_shapes(const Hyperparameters &hp) {
  const std::size_t F = hp.features, B = hp.radial + 1, H = hp.gate_width, R = hp.readout_width;
  std::vector<std::pair<std::string, Shape>> shapes{{"embedding", {std::size_t(hp.elements), F}}};
  for (int l = 0; l < hp.interactions; ++l) {
    const std::size_t message = l == 0 ? 2 : 3, update = l == hp.interactions - 1 ? 2 : 3;
    const std::string layer = "interactions." + std::to_string(l) + ".";
    shapes.push_back({layer + "phi.weight", {F, message * F}});
    shapes.push_back({layer + "phi.bias", {message * F}});
    shapes.push_back({layer + "filter.weight", {B, message * F}});
    shapes.push_back({layer + "mix.weight", {F, 2 * F}});
    shapes.push_back({layer + "gate.weight", {2 * F, H}});
    shapes.push_back({layer + "gate.bias", {H}});
    shapes.push_back({layer + "out.weight", {H, update * F}});
    shapes.push_back({layer + "out.bias", {update * F}});
  }
  shapes.push_back({"readout.0.weight", {F, R}});
  shapes.push_back({"readout.0.bias", {R}});
  shapes.push_back({"readout.1.weight", {R}});
  shapes.push_back({"readout.1.bias", {1}});
  return shapes;
}

// The tensors in the order of ParameterLayout, where names and shapes are those of the architecture.
std::vector<const Tensor *> fitting(const Tensors &tensors, const Hyperparameters &hp,
                                    const std::string &where) {
  const auto wanted = wanted_shapes(hp);
  std::map<std::string, const Tensor *> left;
  for (const auto &[name, tensor] : tensors) left[name] = &tensor;
  std::vector<const Tensor *> found;
  std::vector<std::string> odd;
  for (const auto &[name, shape] : wanted) {
    const auto at = left.find(name);
    found.push_back(at == left.end() ? nullptr : at->second);
    if (at == left.end())
      odd.push_back(name);
    else
      left.erase(at);
  }
  for (const auto &[name, tensor] : left) odd.push_back(name);
  std::sort(odd.begin(), odd.end());
  if (odd.size() > 3) odd.resize(3);
  if (!odd.empty())
    throw FileError(where, "the weights do not fit the architecture", "names such as " + listed(odd, quoted),
                    "", "");
  for (std::size_t k = 0; k < wanted.size(); ++k)
    if (found[k]->shape != wanted[k].second)
      throw FileError(where, "weight " + quoted(wanted[k].first) + " has the wrong shape",
                      shown(found[k]->shape), shown(wanted[k].second), "");
  return found;
}

void read_weights(const Header &header, const Tensors &tensors, const std::string &where,
                  StudentFile &student) {
  const auto found = fitting(tensors, student.hp, where);
  // no more than the file holds, now that the shapes fit both the architecture and the data
  student.weights.reserve(ParameterLayout(student.hp).total);
  for (const Tensor *tensor : found) {
    const std::size_t start = student.weights.size();
    append_values(header, *tensor, student.weights);
    if (!std::all_of(student.weights.begin() + std::ptrdiff_t(start), student.weights.end(),
                     [](double w) { return std::isfinite(w); })) {
      const auto named = std::find_if(tensors.begin(), tensors.end(),
                                      [&](const auto &entry) { return &entry.second == tensor; });
      throw FileError(where, "weight " + quoted(named->first) + " is not finite", "", "",
                      "train the student again");
    }
  }
  const bool wide =
      std::any_of(found.begin(), found.end(), [](const Tensor *t) { return t->dtype == "F64"; });
  student.dtype = wide ? "float64" : "float32";
}

StudentFile parse(const unsigned char *bytes, std::size_t size, const std::string &where) {
  StudentFile student;
  const Header header = read_header(bytes, size, where);
  student.card = card_text(header, where);
  const json::Value card = read_card(student.card, where);
  const Tensors tensors = read_tensors(header, where);
  read_architecture(card, where, student);
  read_baseline(card, where, student);
  read_domain(card, student);
  read_weights(header, tensors, where, student);
  return student;
}

[[noreturn]] void no_memory(const std::string &where, std::uintmax_t size) {
  throw FileError(where, "no memory for this student file", std::to_string(size) + " bytes", "",
                  "free some memory");
}

}  // namespace

StudentFile parse_student(const unsigned char *bytes, std::size_t size, const std::string &where) {
  try {
    return parse(bytes, size, where);
  } catch (const std::bad_alloc &) {
    no_memory(where, size);
  }
}

StudentFile read_student(const std::string &path) {
  const auto unreadable = [&](const std::error_code &code) {
    if (code == std::errc::no_such_file_or_directory)
      throw FileError(path, "no such student file", "", "", "limbeck students lists the bundled ones");
    throw FileError(path, "cannot read the student file", code.message(), "", "");
  };
  // a path with a zero byte in it would open another file
  std::error_code code = std::make_error_code(std::errc::no_such_file_or_directory);
  if (path.find('\0') != std::string::npos) unreadable(code);
  // an error for folders, pipes and devices as well, which have no size
  const std::uintmax_t size = std::filesystem::file_size(path, code);
  if (code) unreadable(code);
  if (size > kLargestFile)
    throw FileError(path, "this is no student file", std::to_string(size) + " bytes",
                    "a .safetensors file written by Limbeck, at most 2 GiB", "");
  const std::unique_ptr<std::FILE, int (*)(std::FILE *)> file(std::fopen(path.c_str(), "rb"), &std::fclose);
  if (!file) unreadable({errno, std::generic_category()});
  std::unique_ptr<unsigned char[]> bytes(new (std::nothrow) unsigned char[size + 1]);
  if (!bytes) no_memory(path, size);
  const std::size_t count = std::fread(bytes.get(), 1, size, file.get());
  if (std::ferror(file.get())) unreadable({errno, std::generic_category()});
  return parse_student(bytes.get(), count, path);
}

}  // namespace limbeck
