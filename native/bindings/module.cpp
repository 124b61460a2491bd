// nanobind bindings: check shapes, ranges and finiteness, release the GIL, call the core.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <string>

#include "arrays.hpp"
#include "limbeck/engine.hpp"
#include "limbeck/trainer.hpp"

using namespace nb::literals;
using limbeck::Hyperparameters;
using limbeck::ParameterLayout;
using limbeck::TrainingSet;

static std::shared_ptr<const TrainingSet> make_set(In<int> species, In<int64_t> atom_offsets, In<int> first,
                                                   In<int> second, In<double> vectors,
                                                   In<int64_t> pair_offsets, int elements) {
  auto set = std::make_shared<TrainingSet>();
  require(atom_offsets.size() >= 1 && atom_offsets.size() == pair_offsets.size(),
          "atom_offsets and pair_offsets: wanted equal lengths S + 1");
  require(first.size() == second.size() && vectors.size() == 3 * first.size(),
          "first, second, vectors: wanted (P,), (P,), (P, 3)");
  const size_t S = atom_offsets.size() - 1;
  const int64_t *ao = atom_offsets.data(), *po = pair_offsets.data();
  require(ao[0] == 0 && po[0] == 0 && ao[S] == int64_t(species.size()) && po[S] == int64_t(first.size()),
          "offsets: wanted 0 first and the total last");
  for (size_t i = 0; i < species.size(); ++i)
    require(species.data()[i] >= 0 && species.data()[i] < elements,
            "species[" + std::to_string(i) + "]: got " + std::to_string(species.data()[i]) +
                ", wanted 0 to " + std::to_string(elements - 1));
  for (size_t s = 0; s < S; ++s) {
    require(ao[s + 1] >= ao[s] && po[s + 1] >= po[s], "offsets: wanted ascending");
    const int64_t n = ao[s + 1] - ao[s];
    for (int64_t p = po[s]; p < po[s + 1]; ++p) {
      const int i = first.data()[p], j = second.data()[p];
      require(i >= 0 && i < n && j >= 0 && j < n, "pair " + std::to_string(p) + ": atom index out of range");
      const double *d = vectors.data() + 3 * p;
      const double r2 = d[0] * d[0] + d[1] * d[1] + d[2] * d[2];
      require(std::isfinite(r2) && r2 > 0,
              "pair " + std::to_string(p) + ": wanted a finite vector longer than zero");
    }
  }
  set->species.assign(species.data(), species.data() + species.size());
  set->atom_offsets.assign(ao, ao + S + 1);
  set->pair_offsets.assign(po, po + S + 1);
  set->first.assign(first.data(), first.data() + first.size());
  set->second.assign(second.data(), second.data() + second.size());
  set->vectors.assign(vectors.data(), vectors.data() + vectors.size());
  return set;
}

template <class T>
class Session {
 public:
  Session(Hyperparameters hp, int threads, const std::string &isa)
      : elements_(hp.elements), layout_(hp), trainer_(limbeck::make_trainer<T>(hp, threads, isa)) {
    require(threads >= 1, "threads: wanted 1 or more");
  }

  void set_structures(In<int> species, In<int64_t> atom_offsets, In<int> first, In<int> second,
                      In<double> vectors, In<int64_t> pair_offsets) {
    set_ = make_set(species, atom_offsets, first, second, vectors, pair_offsets, elements_);
    trainer_->set_structures(set_);
    count_ = atoms_ = 0;
  }

  void set_weights(In<T> weights) {
    require(weights.size() == layout_.total, "weights: got " + std::to_string(weights.size()) +
                                                 " values, wanted " + std::to_string(layout_.total));
    for (size_t i = 0; i < weights.size(); ++i)
      require(std::isfinite(double(weights.data()[i])), "weights[" + std::to_string(i) + "] is not finite");
    trainer_->set_weights(weights.data());
    ready_ = true;
  }

  nb::tuple evaluate(In<int64_t> chosen) {
    require(ready_ && set_, "evaluate: wanted set_structures() and set_weights() first");
    const int64_t S = int64_t(set_->atom_offsets.size()) - 1;
    std::vector<long long> picks(chosen.data(), chosen.data() + chosen.size());
    size_t atoms = 0;
    for (long long s : picks) {
      require(s >= 0 && s < S, "structure " + std::to_string(s) + " is out of range");
      atoms += size_t(set_->atom_offsets[s + 1] - set_->atom_offsets[s]);
    }
    count_ = picks.size();
    atoms_ = atoms;
    std::vector<double> e(count_), f(3 * atoms), v(9 * count_), a(atoms);
    {
      nb::gil_scoped_release release;
      trainer_->evaluate(picks, e.data(), f.data(), v.data(), a.data());
    }
    return nb::make_tuple(give(std::move(e), {count_}), give(std::move(f), {atoms, 3}),
                          give(std::move(v), {count_, 3, 3}), give(std::move(a), {atoms}));
  }

  nb::ndarray<nb::numpy, T> gradient(In<double> ge, In<double> gf, In<double> gv) {
    require(count_ > 0, "gradient: wanted evaluate() first");
    require(ge.size() == count_ && gf.size() == 3 * atoms_ && gv.size() == 9 * count_,
            "gradient: wanted the shapes of the last evaluate()");
    std::vector<T> out(layout_.total);
    {
      nb::gil_scoped_release release;
      trainer_->gradient(ge.data(), gf.data(), gv.data(), out.data());
    }
    return give(std::move(out), {layout_.total});
  }

 private:
  int elements_;
  bool ready_ = false;
  ParameterLayout layout_;
  std::shared_ptr<const TrainingSet> set_;
  std::unique_ptr<limbeck::Trainer<T>> trainer_;
  size_t count_ = 0, atoms_ = 0;
};

template <class T>
static void bind_session(nb::module_ &m, const char *name) {
  nb::class_<Session<T>>(m, name)
      .def(nb::init<Hyperparameters, int, const std::string &>(), "hyperparameters"_a, "threads"_a,
           "instruction_set"_a)
      .def("set_structures", &Session<T>::set_structures, "species"_a, "atom_offsets"_a, "first"_a,
           "second"_a, "vectors"_a, "pair_offsets"_a)
      .def("set_weights", &Session<T>::set_weights, "weights"_a)
      .def("evaluate", &Session<T>::evaluate, "chosen"_a,
           "Energies (S,), forces (N, 3), dE/d(strain) (S, 3, 3) and atomic energies (N,).")
      .def("gradient", &Session<T>::gradient, "grad_energy"_a, "grad_forces"_a, "grad_virial"_a,
           "Gradient with respect to the flat weights, of a loss on the last evaluation.");
}

void bind_engine(nb::module_ &);        // engine.cpp
void bind_student_file(nb::module_ &);  // student_file.cpp

NB_MODULE(_native, m) {
  m.doc() = "Limbeck's torch-free core.";
  nb::class_<Hyperparameters>(m, "Hyperparameters")
      .def(
          "__init__",
          [](Hyperparameters *h, int features, int interactions, int radial, int gate_width,
             int readout_width, int elements, double cutoff, double norm_offset, double energy_scale,
             std::vector<double> core) {
            new (h) Hyperparameters{features, interactions, radial,      gate_width,   readout_width,
                                    elements, cutoff,       norm_offset, energy_scale, std::move(core)};
          },
          nb::kw_only(), "features"_a, "interactions"_a, "radial"_a, "gate_width"_a, "readout_width"_a,
          "elements"_a, "cutoff"_a, "norm_offset"_a, "energy_scale"_a, "core"_a = std::vector<double>())
      .def_prop_ro("parameters", [](const Hyperparameters &h) { return ParameterLayout(h).total; });
  m.def("best_instruction_set", &limbeck::best_instruction_set);
  m.def("runs_here", &limbeck::runs_here, "instruction_set"_a);
  bind_session<float>(m, "TrainerF32");
  bind_session<double>(m, "TrainerF64");
  bind_engine(m);
  bind_student_file(m);
}
