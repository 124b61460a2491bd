#include "card.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iterator>
#include <optional>
#include <string_view>

#include "safetensors.hpp"

namespace limbeck {
namespace {

using json::Kind;
using json::Value;

constexpr int kMostElements = 118;

constexpr const char *kSymbols[] = {
    "H",  "He", "Li", "Be", "B",  "C",  "N",  "O",  "F",  "Ne", "Na", "Mg", "Al", "Si", "P",  "S",  "Cl",
    "Ar", "K",  "Ca", "Sc", "Ti", "V",  "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As", "Se",
    "Br", "Kr", "Rb", "Sr", "Y",  "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd", "In", "Sn", "Sb",
    "Te", "I",  "Xe", "Cs", "Ba", "La", "Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er",
    "Tm", "Yb", "Lu", "Hf", "Ta", "W",  "Re", "Os", "Ir", "Pt", "Au", "Hg", "Tl", "Pb", "Bi", "Po", "At",
    "Rn", "Fr", "Ra", "Ac", "Th", "Pa", "U",  "Np", "Pu", "Am", "Cm", "Bk", "Cf", "Es", "Fm", "Md", "No",
    "Lr", "Rf", "Db", "Sg", "Bh", "Hs", "Mt", "Ds", "Rg", "Cn", "Nh", "Fl", "Mc", "Lv", "Ts", "Og"};
static_assert(std::size(kSymbols) == kMostElements, "one symbol an element");

std::string plain(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.15g", value);
  return text;
}

std::string shown(const Value &value) {
  switch (value.kind) {
    case Kind::null:
      return "null";
    case Kind::boolean:
      return value.truth ? "true" : "false";
    case Kind::number:
      return plain(value.number);
    case Kind::string:
      return quoted(value.text);
    case Kind::array:
      return "an array";
    case Kind::object:
      return "an object";
  }
  return "";
}

[[noreturn]] void corrupt(const std::string &where, const std::string &what) {
  not_a_student(where, "its model card lacks a valid " + what);
}

const Value &object_of(const Value &card, const char *name, const std::string &where) {
  const Value *value = card.find(name);
  if (!value || value->kind != Kind::object) corrupt(where, std::string("'") + name + "'");
  return *value;
}

int width_of(const Value &fields, const char *name, const std::string &where) {
  const Value *value = fields.find(name);
  if (!value) corrupt(where, std::string("'") + name + "'");
  const auto count = as_count(*value);
  if (!count || *count < 1 || *count > 4096)
    corrupt(where, std::string(name) + " (" + shown(*value) + ", wanted integers from 1 to 4096)");
  return static_cast<int>(*count);
}

double length_of(const Value &fields, const char *name, double fallback, const std::string &where) {
  const Value *value = fields.find(name);
  if (!value) return fallback;
  if (value->kind != Kind::number || !(value->number > 0) || !std::isfinite(value->number))
    corrupt(where, std::string(name) + " (" + shown(*value) + ", wanted positive numbers)");
  return value->number;
}

std::vector<int> read_elements(const Value &fields, const std::string &where) {
  const Value *value = fields.find("elements");
  if (!value || value->kind != Kind::array) corrupt(where, "'elements'");
  std::vector<int> elements;
  for (const Value &item : value->items) {
    const auto z = as_count(item);
    if (!z || *z < 1 || *z > kMostElements || (!elements.empty() && elements.back() >= int(*z)))
      corrupt(where, "elements (" + shown(item) + ", wanted ascending atomic numbers)");
    elements.push_back(static_cast<int>(*z));
  }
  if (elements.empty()) corrupt(where, "elements (none, wanted ascending atomic numbers)");
  return elements;
}

// ASCII text as Python's int() reads it: spaces around, a sign, underscores between digits.
std::optional<int> as_integer(std::string_view text) {
  constexpr std::string_view spaces = " \t\n\v\f\r\x1c\x1d\x1e\x1f";
  const auto first = text.find_first_not_of(spaces);
  if (first == std::string_view::npos) return {};
  text = text.substr(first, text.find_last_not_of(spaces) - first + 1);
  const bool negative = text[0] == '-';
  if (negative || text[0] == '+') text.remove_prefix(1);
  if (text.empty() || text.front() == '_' || text.back() == '_') return {};
  int value = 0;
  for (std::size_t k = 0; k < text.size(); ++k) {
    if (text[k] == '_' && text[k - 1] != '_') continue;
    if (text[k] < '0' || text[k] > '9') return {};
    value = std::min(100'000, 10 * value + (text[k] - '0'));  // larger than any atomic number is enough
  }
  return negative ? -value : value;
}

double energy_or_length(const Value &value, const char *name, const std::string &where) {
  if (value.kind != Kind::number) corrupt(where, std::string("'") + name + "' (" + shown(value) + ")");
  if (!std::isfinite(value.number)) not_a_student(where, "references or ZBL radii that are not finite");
  return value.number;
}

int atomic_number(std::string_view text, const char *name, const std::string &where) {
  const auto z = as_integer(text);
  if (!z) corrupt(where, std::string("'") + name + "' (" + quoted(std::string(text)) + ")");
  if (*z < 1 || *z > kMostElements)
    not_a_student(where, "references or ZBL radii of atomic numbers beyond 1 to 118");
  return *z;
}

// Species of an atomic number, -1 if unknown to the student.
int species_of(const StudentFile &student, int z) {
  const auto at = std::lower_bound(student.elements.begin(), student.elements.end(), z);
  return at == student.elements.end() || *at != z ? -1 : static_cast<int>(at - student.elements.begin());
}

void set_pair(const StudentFile &student, std::vector<double> &table, int za, int zb, double value) {
  const int a = species_of(student, za), b = species_of(student, zb), n = student.hp.elements;
  if (a >= 0 && b >= 0) table[std::size_t(a * n + b)] = table[std::size_t(b * n + a)] = value;
}

}  // namespace

Value read_card(const std::string &text, const std::string &where) {
  Value card;
  json::Options options;
  options.python = true;
  try {
    card = json::parse(text, options);
  } catch (const json::Error &error) {
    not_a_student(where, std::string("no Limbeck card in its metadata (") + error.what() + ")");
  }
  if (card.kind != Kind::object) not_a_student(where, "its card is no JSON object");
  const Value *version = card.find("format_version");
  if (!version || version->kind != Kind::number || version->number != 1)
    throw FileError(where, "unknown student file format", version ? shown(*version) : "", "format 1",
                    "upgrade Limbeck");
  return card;
}

// Absent, or a radius in Angstrom for each pair of elements.
void read_cores(const Value &fields, const std::string &where, Hyperparameters &hp) {
  const Value *cores = fields.find("core_a");
  if (!cores) return;
  const std::size_t pairs = std::size_t(hp.elements) * std::size_t(hp.elements);
  if (cores->kind != Kind::array || (cores->items.size() != pairs && !cores->items.empty()))
    corrupt(where, "core_a (wanted a number for each of " + std::to_string(pairs) + " pairs)");
  for (const Value &core : cores->items) {
    if (core.kind != Kind::number || !(core.number >= 0) || !std::isfinite(core.number))
      corrupt(where, "core_a (" + shown(core) + ", wanted a distance)");
    hp.core.push_back(core.number);
  }
}

void read_architecture(const Value &card, const std::string &where, StudentFile &student) {
  static const char *const known[] = {"elements",     "hidden_dim", "interactions",  "rbf",
                                      "gate_width",   "cutoff",     "readout_width", "norm_offset",
                                      "energy_scale", "core_a",     "name"};
  const Value &fields = object_of(card, "architecture", where);
  for (const std::string &name : fields.names)
    if (std::find(std::begin(known), std::end(known), name) == std::end(known))
      corrupt(where, "architecture (unknown field " + quoted(name) + ")");
  student.elements = read_elements(fields, where);
  Hyperparameters &hp = student.hp;
  hp.features = width_of(fields, "hidden_dim", where);
  hp.interactions = width_of(fields, "interactions", where);
  hp.radial = width_of(fields, "rbf", where);
  hp.gate_width = width_of(fields, "gate_width", where);
  hp.readout_width = width_of(fields, "readout_width", where);
  hp.elements = static_cast<int>(student.elements.size());
  // the defaults of limbeck.students.specification.Architecture
  hp.cutoff = length_of(fields, "cutoff", 5.0, where);
  hp.norm_offset = length_of(fields, "norm_offset", 0.1, where);
  hp.energy_scale = length_of(fields, "energy_scale", 1.0, where);
  read_cores(fields, where, hp);
  const Value *name = fields.find("name");
  if (name && (name->kind != Kind::string || name->text != "painn"))
    corrupt(where, "name (" + shown(*name) + ", wanted 'painn')");
}

void read_baseline(const Value &card, const std::string &where, StudentFile &student) {
  const char *const energies = "energy_references_ev", *const radii = "zbl_radius_a";
  const std::size_t n = student.elements.size();
  std::vector<bool> given(n, false);
  student.references.assign(n, 0.0);
  student.zbl_radius.assign(n * n, 0.0);
  const Value &references = object_of(card, energies, where), &radius = object_of(card, radii, where);
  for (std::size_t k = 0; k < references.items.size(); ++k) {
    const double energy = energy_or_length(references.items[k], energies, where);
    const int species = species_of(student, atomic_number(references.names[k], energies, where));
    if (species < 0) continue;
    student.references[std::size_t(species)] = energy;
    given[std::size_t(species)] = true;
  }
  for (std::size_t k = 0; k < radius.items.size(); ++k) {
    const std::string &pair = radius.names[k];
    const std::size_t dash = pair.find('-');
    if (dash == std::string::npos || pair.find('-', dash + 1) != std::string::npos)
      corrupt(where, std::string("'") + radii + "' (" + quoted(pair) + ")");
    const int za = atomic_number(std::string_view(pair).substr(0, dash), radii, where);
    const int zb = atomic_number(std::string_view(pair).substr(dash + 1), radii, where);
    set_pair(student, student.zbl_radius, za, zb, energy_or_length(radius.items[k], radii, where));
  }
  std::string missing;
  for (std::size_t s = 0; s < n; ++s)
    if (!given[s]) missing += (missing.empty() ? "" : ", ") + std::to_string(student.elements[s]);
  if (!missing.empty()) not_a_student(where, "no energy reference for Z = [" + missing + "]");
}

const char *symbol_of(int z) { return z >= 1 && z <= kMostElements ? kSymbols[z - 1] : "?"; }

int atomic_number_of(std::string_view symbol) {
  const auto at = std::find(std::begin(kSymbols), std::end(kSymbols), symbol);
  return at == std::end(kSymbols) ? 0 : static_cast<int>(at - std::begin(kSymbols)) + 1;
}

// As in Python, nothing here makes a file unreadable: what is invalid counts as absent.
void read_domain(const Value &card, StudentFile &student) {
  student.shortest_pair.assign(student.elements.size() * student.elements.size(), 0.0);
  const Value *data = card.find("data");
  const auto range = [&](const char *name, double *low) {
    const Value *found = data ? data->find(name) : nullptr;
    if (!found || found->items.size() != 2) return;
    const double a = found->items[0].number, b = found->items[1].number;
    if (a <= b && std::isfinite(a) && std::isfinite(b)) low[0] = a, low[1] = b;
  };
  range("density_g_per_cm3", student.density_g_per_cm3);
  range("temperature_k", student.temperature_k);
  if (const Value *charge = card.find("total_charge")) student.charge = charge->number;
  const Value *pairs = data ? data->find("shortest_pair_a") : nullptr;
  if (!pairs) return;
  for (std::size_t k = 0; k < pairs->names.size(); ++k) {
    const std::string_view pair = pairs->names[k];
    const std::size_t dash = std::min(pair.find('-'), pair.size());
    const int za = atomic_number_of(pair.substr(0, dash));
    const int zb = atomic_number_of(pair.substr(std::min(dash + 1, pair.size())));
    const double distance = pairs->items[k].number;
    if (distance > 0 && std::isfinite(distance)) set_pair(student, student.shortest_pair, za, zb, distance);
  }
}

Model model_of(const StudentFile &student) {
  Model model;
  model.hp = student.hp, model.weights = student.weights, model.numbers = student.elements;
  model.references = student.references, model.zbl_radius = student.zbl_radius;
  return model;
}

}  // namespace limbeck
