#include "draft.hpp"

#include <cstdint>
#include <cstring>
#include <stdexcept>

namespace limbeck::test {

std::string json_string(const std::string &text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

std::string replaced(const std::string &text, const std::string &from, const std::string &to) {
  const std::size_t at = text.find(from);
  if (at == std::string::npos) throw std::logic_error("nothing to replace: " + from);
  return text.substr(0, at) + to + text.substr(at + from.size());
}

static std::size_t count_of(const DraftTensor &tensor) {
  std::size_t count = 1;
  for (const int n : tensor.shape) count *= std::size_t(n);
  return count;
}

std::string Draft::header() const {
  std::string text = "{\"__metadata__\":{\"limbeck\":" + json_string(card) + "}";
  std::size_t at = 0;
  for (const DraftTensor &tensor : tensors) {
    text += "," + json_string(tensor.name) + ":{\"dtype\":\"" + tensor.dtype + "\",\"shape\":[";
    for (std::size_t k = 0; k < tensor.shape.size(); ++k)
      text += (k ? "," : "") + std::to_string(tensor.shape[k]);
    const std::size_t end = at + count_of(tensor) * (tensor.dtype == "F32" ? 4 : 8);
    text += "],\"data_offsets\":[" + std::to_string(at) + "," + std::to_string(end) + "]}";
    at = end;
  }
  return text + "}";
}

template <class T>
static void put(std::string &out, T value) {
  std::uint64_t bits = 0;
  if constexpr (sizeof(T) == 4) {
    std::uint32_t half;
    std::memcpy(&half, &value, 4);
    bits = half;
  } else {
    std::memcpy(&bits, &value, 8);
  }
  for (std::size_t k = 0; k < sizeof(T); ++k) out += static_cast<char>(bits >> (8 * k) & 0xFF);
}

std::string Draft::data() const {
  std::string out;
  for (const DraftTensor &tensor : tensors)
    for (const double value : tensor.values) {
      if (tensor.dtype == "F32")
        put(out, static_cast<float>(value));
      else
        put(out, value);
    }
  return out;
}

std::string Draft::file_of(const std::string &header, const std::string &data) {
  std::string out;
  put(out, static_cast<std::uint64_t>(header.size()));
  return out + header + data;
}

Draft Draft::with_card(const std::string &from, const std::string &to) const {
  Draft changed = *this;
  changed.card = replaced(card, from, to);
  return changed;
}

std::string Draft::with_header(const std::string &from, const std::string &to) const {
  return file_of(replaced(header(), from, to), data());
}

Draft small_draft(int interactions, const std::string &dtype) {
  constexpr int Z = 2, F = 3, B = 2, H = 2, R = 2;
  Draft draft;
  draft.card =
      "{\"architecture\": {\"cutoff\": 5.0, \"elements\": [1, 14], \"energy_scale\": 0.5, \"gate_width\": 2, "
      "\"hidden_dim\": 3, \"interactions\": " +
      std::to_string(interactions) +
      ", \"name\": \"painn\", \"norm_offset\": 0.1, \"rbf\": 2, \"readout_width\": 2}, \"cutoff_a\": 5.0, "
      "\"data\": {\"shortest_pair_a\": {\"H-H\": 0.75, \"H-Si\": 1.5, \"H-Xx\": 3.0}, \"note\": null}, "
      "\"dtype\": \"float32\", \"elements\": [1, 14], "
      "\"energy_references_ev\": {\"1\": -1.0, \"14\": -5.25}, \"format_version\": 1, "
      "\"limbeck_version\": \"0.1.0\", \"preset\": \"small\", \"zbl_radius_a\": {\"1-14\": 1.25}}";
  auto &tensors = draft.tensors;
  tensors.push_back({"embedding", dtype, {Z, F}, {}});
  for (int l = 0; l < interactions; ++l) {
    const int message = l == 0 ? 2 : 3, update = l == interactions - 1 ? 2 : 3;
    const std::string layer = "interactions." + std::to_string(l) + ".";
    tensors.push_back({layer + "phi.weight", dtype, {F, message * F}, {}});
    tensors.push_back({layer + "phi.bias", dtype, {message * F}, {}});
    tensors.push_back({layer + "filter.weight", dtype, {B + 1, message * F}, {}});
    tensors.push_back({layer + "mix.weight", dtype, {F, 2 * F}, {}});
    tensors.push_back({layer + "gate.weight", dtype, {2 * F, H}, {}});
    tensors.push_back({layer + "gate.bias", dtype, {H}, {}});
    tensors.push_back({layer + "out.weight", dtype, {H, update * F}, {}});
    tensors.push_back({layer + "out.bias", dtype, {update * F}, {}});
  }
  tensors.push_back({"readout.0.weight", dtype, {F, R}, {}});
  tensors.push_back({"readout.0.bias", dtype, {R}, {}});
  tensors.push_back({"readout.1.weight", dtype, {R}, {}});
  tensors.push_back({"readout.1.bias", dtype, {1}, {}});
  for (std::size_t k = 0; k < tensors.size(); ++k)
    for (std::size_t i = 0; i < count_of(tensors[k]); ++i)
      tensors[k].values.push_back(10.0 * double(k) + double(i) / 8);
  return draft;
}

}  // namespace limbeck::test
