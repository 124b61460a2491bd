// Bindings of the inference engine: check shapes, ranges and finiteness, release the GIL, call the core.
#include "limbeck/engine.hpp"

#include <nanobind/stl/string.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <mutex>
#include <string>

#include "arrays.hpp"
#include "limbeck/pool.hpp"

using namespace nb::literals;
using limbeck::Engine;
using limbeck::Model;
using limbeck::NeighbourList;
using limbeck::Results;
using limbeck::Scalar;
using limbeck::System;

namespace {

void require_finite(In<double> values, const char *name) {
  for (size_t k = 0; k < values.size(); ++k)
    require(std::isfinite(values.data()[k]), std::string(name) + "[" + std::to_string(k) + "] is not finite");
}

struct List {
  std::vector<int> species, first, second, shift;
};

void check_list(In<int> species, In<int> first, In<int> second, In<int> shift, int elements) {
  require(first.size() == second.size() && shift.size() == 3 * first.size(),
          "first, second, shift: wanted (P,), (P,), (P, 3)");
  const int n = int(species.size());
  for (int i = 0; i < n; ++i)
    require(species.data()[i] >= 0 && species.data()[i] < elements,
            "species[" + std::to_string(i) + "]: got " + std::to_string(species.data()[i]) +
                ", wanted 0 to " + std::to_string(elements - 1));
  for (size_t p = 0; p < first.size(); ++p) {
    const int i = first.data()[p], j = second.data()[p];
    require(i >= 0 && i < n && j >= 0 && j < n, "pair " + std::to_string(p) + ": atom index out of range");
    const int *s = shift.data() + 3 * p;
    require(i != j || s[0] || s[1] || s[2], "pair " + std::to_string(p) + ": an atom with itself");
  }
}

class PyEngine {
 public:
  PyEngine(limbeck::Hyperparameters hp, In<double> weights, In<int> numbers, In<double> references,
           In<double> zbl_radius, const std::string &scalar, const std::string &isa) {
    Model model;
    model.hp = hp;
    model.weights.assign(weights.data(), weights.data() + weights.size());
    model.numbers.assign(numbers.data(), numbers.data() + numbers.size());
    model.references.assign(references.data(), references.data() + references.size());
    model.zbl_radius.assign(zbl_radius.data(), zbl_radius.data() + zbl_radius.size());
    require(scalar == "float32" || scalar == "float64" || scalar == "dual",
            "scalar: got " + scalar + ", wanted float32, float64 or dual");
    elements_ = hp.elements;
    engine_ = limbeck::make_engine(model,
                                   scalar == "float32"   ? Scalar::f32
                                   : scalar == "float64" ? Scalar::f64
                                                         : Scalar::dual,
                                   isa);
  }
  int elements() const { return elements_; }
  std::unique_ptr<System> system(int threads) const {
    require(threads >= 1, "threads: wanted 1 or more");
    return engine_->system(threads);
  }

  // Structures are shared out to threads one by one, each evaluated by one thread.
  nb::tuple evaluate_batch(In<int64_t> offsets, In<int> species, In<double> positions, In<double> cells,
                           In<int64_t> pair_offsets, In<int> first, In<int> second, In<int> shift,
                           int threads) {
    require(offsets.size() >= 1 && offsets.size() == pair_offsets.size(), "offsets: wanted two of (S + 1,)");
    const size_t S = offsets.size() - 1;
    const int64_t *at = offsets.data(), *po = pair_offsets.data();
    require(at[0] == 0 && po[0] == 0 && at[S] == int64_t(species.size()) && po[S] == int64_t(first.size()),
            "offsets: wanted 0 first and the total last");
    require(positions.size() == 3 * species.size() && cells.size() == 9 * S,
            "positions, cells: wanted (N, 3), (S, 3, 3)");
    require(first.size() == second.size() && shift.size() == 3 * first.size(),
            "first, second, shift: wanted (P,), (P,), (P, 3)");
    require_finite(positions, "positions");
    require_finite(cells, "cells");
    for (size_t s = 0; s < S; ++s) {
      require(at[s] <= at[s + 1] && po[s] <= po[s + 1], "offsets: wanted ascending");
      for (int64_t i = at[s]; i < at[s + 1]; ++i)
        require(species.data()[i] >= 0 && species.data()[i] < elements_, "species: out of range");
      const int64_t n = at[s + 1] - at[s];
      for (int64_t p = po[s]; p < po[s + 1]; ++p)
        require(first.data()[p] >= 0 && first.data()[p] < n && second.data()[p] >= 0 && second.data()[p] < n,
                "pair " + std::to_string(p) + ": atom index out of range");
    }
    const size_t N = species.size(), ZZ = size_t(elements_) * elements_;
    std::vector<double> energy(S), forces(3 * N), virial(9 * S), atom_energy(N), shortest(S * ZZ);
    {
      nb::gil_scoped_release release;
      std::atomic<size_t> next{0};
      std::mutex guard;
      std::exception_ptr failure;
      size_t failed = S;  // of several failures the first structure's is reported
      const auto work = [&](int) {
        size_t s = 0;
        try {
          if (next >= S) return;  // another thread did it all
          auto system = engine_->system(1);
          Results out;
          while ((s = next++) < S) {
            NeighbourList list;
            list.owned = list.total = int(at[s + 1] - at[s]);
            list.species = species.data() + at[s], list.pairs = size_t(po[s + 1] - po[s]);
            list.first = first.data() + po[s], list.second = second.data() + po[s];
            list.shift = shift.data() + 3 * po[s];
            list.positions = positions.data() + 3 * at[s], list.cell = cells.data() + 9 * s;
            system->set_list(list);
            system->evaluate(list.positions, list.cell, out);
            energy[s] = out.energy;
            std::copy(out.forces.begin(), out.forces.end(), forces.begin() + 3 * at[s]);
            std::copy(out.atom_energy.begin(), out.atom_energy.end(), atom_energy.begin() + at[s]);
            std::copy_n(out.virial, 9, virial.begin() + 9 * s);
            std::copy(out.shortest.begin(), out.shortest.end(), shortest.begin() + s * ZZ);
          }
        } catch (...) {
          std::lock_guard<std::mutex> lock(guard);
          if (!failure || s < failed) failed = s, failure = std::current_exception();
          next = S;
        }
      };
      const int team = int(std::min<size_t>(size_t(std::max(1, threads)), S));
      limbeck::Pool::shared().run(team, team, work);
      if (failure) std::rethrow_exception(failure);
    }
    const size_t Z = size_t(elements_);
    return nb::make_tuple(give(std::move(energy), {S}), give(std::move(forces), {N, 3}),
                          give(std::move(virial), {S, 3, 3}), give(std::move(atom_energy), {N}),
                          give(std::move(shortest), {S, Z, Z}));
  }

 private:
  int elements_;
  std::unique_ptr<Engine> engine_;
};

// One caller at a time: Python's Session holds the lock.
class PySystem {
 public:
  PySystem(const PyEngine &engine, int threads)
      : elements_(engine.elements()), system_(engine.system(threads)) {}

  void set_list(In<int> species, In<int> first, In<int> second, In<int> shift, double skin,
                In<double> positions, In<double> cell, bool fully_periodic) {
    check_list(species, first, second, shift, elements_);
    require(positions.size() == 3 * species.size() && cell.size() == 9,
            "positions, cell: wanted (N, 3), (3, 3)");
    require_finite(positions, "positions");
    require_finite(cell, "cell");
    require(std::isfinite(skin) && skin >= 0, "skin: wanted 0 or more");
    NeighbourList list;
    list.owned = list.total = atoms_ = int(species.size());
    list.species = species.data(), list.pairs = first.size();
    list.first = first.data(), list.second = second.data(), list.shift = shift.data();
    list.skin = skin, list.positions = positions.data(), list.cell = cell.data();
    list.fully_periodic = fully_periodic;
    nb::gil_scoped_release release;
    ready_ = false;
    system_->set_list(list);
    ready_ = true;
  }

  void release() {
    ready_ = false;
    system_->release();
  }

  bool covers(In<double> positions, In<double> cell) const {
    return ready_ && positions.size() == 3 * size_t(atoms_) && cell.size() == 9 &&
           system_->covers(positions.data(), cell.data());
  }

  nb::tuple evaluate(In<double> positions, In<double> cell, bool atom_virials, bool seconds) {
    check(positions, cell);
    out_.want_atom_virial = atom_virials, out_.want_seconds = seconds;
    {
      nb::gil_scoped_release release;
      system_->evaluate(positions.data(), cell.data(), out_);
    }
    const size_t n = size_t(atoms_), Z = size_t(elements_);
    nb::object each = nb::none(), times = nb::none();
    if (atom_virials) each = nb::cast(give(std::move(out_.atom_virial), {n, 3, 3}));
    if (seconds) times = nb::cast(give(std::move(out_.seconds), {limbeck::kPhases.size()}));
    return nb::make_tuple(out_.energy, give(std::move(out_.forces), {n, 3}),
                          give(std::vector<double>(out_.virial, out_.virial + 9), {3, 3}),
                          give(std::move(out_.atom_energy), {n}), give(std::move(out_.shortest), {Z, Z}),
                          each, times);
  }

  nb::ndarray<nb::numpy, double> hessian_product(In<double> positions, In<double> cell,
                                                 In<double> direction) {
    check(positions, cell);
    require(direction.size() == positions.size(), "direction: wanted (N, 3)");
    require_finite(direction, "direction");
    std::vector<double> product(direction.size());
    {
      nb::gil_scoped_release release;
      system_->hessian_product(positions.data(), cell.data(), direction.data(), product.data());
    }
    return give(std::move(product), {size_t(atoms_), 3});
  }

  nb::ndarray<nb::numpy, double> centroid_virial(In<double> positions, In<double> cell) {
    check(positions, cell);
    std::vector<double> virial(3 * positions.size());
    {
      nb::gil_scoped_release release;
      system_->centroid_virial(positions.data(), cell.data(), virial.data());
    }
    return give(std::move(virial), {size_t(atoms_), 3, 3});
  }

  size_t bytes() const { return system_->bytes(); }

 private:
  void check(const In<double> &positions, const In<double> &cell) const {
    require(ready_, "evaluate: wanted set_list() first");
    require(positions.size() == 3 * size_t(atoms_) && cell.size() == 9,
            "positions, cell: wanted (N, 3), (3, 3)");
    require_finite(positions, "positions");
    require_finite(cell, "cell");
  }

  int elements_, atoms_ = 0;
  bool ready_ = false;
  std::unique_ptr<System> system_;
  Results out_;
};

}  // namespace

void bind_engine(nb::module_ &m) {
  nb::class_<PyEngine>(m, "Engine", "Packed weights of one student; shared by systems.")
      .def(nb::init<limbeck::Hyperparameters, In<double>, In<int>, In<double>, In<double>,
                    const std::string &, const std::string &>(),
           "hyperparameters"_a, "weights"_a, "numbers"_a, "references"_a, "zbl_radius"_a, "scalar"_a,
           "instruction_set"_a)
      .def("evaluate_batch", &PyEngine::evaluate_batch, "offsets"_a, "species"_a, "positions"_a, "cells"_a,
           "pair_offsets"_a, "first"_a, "second"_a, "shift"_a, "threads"_a,
           "Energy (S,), forces (N, 3), dE/d(strain) (S, 3, 3), atomic energies (N,), closest pairs (S, Z, "
           "Z).");
  nb::class_<PySystem>(m, "System", "One evolving structure: a neighbour list with a skin, and buffers.")
      .def(nb::init<const PyEngine &, int>(), "engine"_a, "threads"_a, nb::keep_alive<1, 2>())
      .def("set_list", &PySystem::set_list, "species"_a, "first"_a, "second"_a, "shift"_a, "skin"_a,
           "positions"_a, "cell"_a, "fully_periodic"_a)
      .def("covers", &PySystem::covers, "positions"_a, "cell"_a,
           "Whether the list still holds every pair within the cutoff.")
      .def("release", &PySystem::release, "Give memory back; set_list() comes next.")
      .def("evaluate", &PySystem::evaluate, "positions"_a, "cell"_a, "atom_virials"_a = false,
           "seconds"_a = false)
      .def("hessian_product", &PySystem::hessian_product, "positions"_a, "cell"_a, "direction"_a)
      .def("centroid_virial", &PySystem::centroid_virial, "positions"_a, "cell"_a)
      .def_prop_ro("bytes", &PySystem::bytes);
  nb::list phases;
  for (const auto &name : limbeck::kPhases) phases.append(name);
  m.attr("PHASES") = phases;
}
