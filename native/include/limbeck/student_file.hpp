// Reading a student file (format 1) without Python: the counterpart of limbeck.artifact.file.
//
// A student file is a safetensors file: header length (8 bytes, little-endian), JSON header, data. The
// entry `limbeck` of the header's `__metadata__` is the model card, a JSON object as text. This reader
// refuses what Python's refuses, with the same messages where they fit. It is stricter about duplicate names
// in a JSON object, nesting deeper than 127, more than a million JSON values, files above
// 2 GiB, and values of a JSON type that Limbeck does not write though Python would convert them ("14" or
// true for a number, 14.0 for an integer).
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "limbeck/engine.hpp"
#include "limbeck/model.hpp"

namespace limbeck {

// One line, valid UTF-8: where, what, got, wanted, remedy; empty parts are left out.
class FileError : public std::runtime_error {
 public:
  FileError(const std::string &where, const std::string &what, const std::string &got,
            const std::string &wanted, const std::string &remedy);
};

struct StudentFile {
  Hyperparameters hp{};
  std::vector<int> elements;          // (Z,) atomic numbers, ascending; the species are places in it
  std::vector<double> weights;        // flat, in the order of ParameterLayout
  std::vector<double> references;     // (Z,) eV
  std::vector<double> zbl_radius;     // (Z, Z) Angstrom, symmetric, 0 where none is given
  std::string dtype;                  // "float64" where any stored weight is, else "float32"
  std::string card;                   // the JSON text
  std::vector<double> shortest_pair;  // (Z, Z) Angstrom, from data.shortest_pair_a, 0 where absent
  // of the training data, lowest and highest, 0 and 0 where the card has none
  double density_g_per_cm3[2] = {0, 0}, temperature_k[2] = {0, 0};
  double charge = 0;  // the one total charge of the training data, e
};

int atomic_number_of(std::string_view symbol);  // 0 if unknown
const char *symbol_of(int atomic_number);
Model model_of(const StudentFile &);

// Throws FileError; `where` names the file in its line.
StudentFile parse_student(const unsigned char *bytes, std::size_t size, const std::string &where);
StudentFile read_student(const std::string &path);

}  // namespace limbeck
