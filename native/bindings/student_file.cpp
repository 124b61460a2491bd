// nanobind binding of the student file reader.
#include "limbeck/student_file.hpp"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <exception>
#include <utility>

#include "arrays.hpp"

using namespace nb::literals;

static nb::dict read_student(const std::string &path) {
  limbeck::StudentFile student;
  {
    nb::gil_scoped_release release;
    student = limbeck::read_student(path);
  }
  const limbeck::Hyperparameters &hp = student.hp;
  nb::dict hyper, out;
  hyper["features"] = hp.features;
  hyper["interactions"] = hp.interactions;
  hyper["radial"] = hp.radial;
  hyper["gate_width"] = hp.gate_width;
  hyper["readout_width"] = hp.readout_width;
  hyper["elements"] = hp.elements;
  hyper["cutoff"] = hp.cutoff;
  hyper["norm_offset"] = hp.norm_offset;
  hyper["energy_scale"] = hp.energy_scale;
  hyper["core"] = hp.core;
  const size_t count = student.weights.size(), Z = student.elements.size();
  out["hyperparameters"] = hyper;
  out["elements"] = student.elements;
  out["weights"] = give(std::move(student.weights), {count});
  out["references"] = give(std::move(student.references), {Z});
  out["zbl_radius"] = give(std::move(student.zbl_radius), {Z, Z});
  out["dtype"] = student.dtype;
  out["card"] = student.card;
  out["shortest_pair"] = give(std::move(student.shortest_pair), {Z, Z});
  return out;
}

void bind_student_file(nb::module_ &m) {
  nb::register_exception_translator([](const std::exception_ptr &thrown, void *) {
    try {
      std::rethrow_exception(thrown);
    } catch (const limbeck::FileError &error) {
      PyErr_SetString(PyExc_ValueError, error.what());
    }
  });
  m.def(
      "read_student", &read_student, "path"_a,
      "A student file: hyperparameters (keywords of Hyperparameters), elements, weights (flat, float64), "
      "references (Z,) in eV, zbl_radius and shortest_pair (Z, Z) in Å with 0 where none is known, dtype of "
      "the stored weights, card (JSON text). Raises ValueError where the file is no student.");
}
