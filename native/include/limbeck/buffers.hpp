// Buffers of an evaluation: rows of atoms, scratch of each thread.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "limbeck/dual.hpp"
#include "limbeck/neighbour_table.hpp"
#include "limbeck/packed.hpp"
#include "limbeck/radial_basis.hpp"

namespace LIMBECK_ISA {

// Number type of positions: double, or a dual number where one flows through.
template <class T>
using Real = std::conditional_t<std::is_arithmetic<T>::value, double, T>;

enum Phase { kGeometry, kFilters, kMessages, kUpdates, kAdjoints, kUpdateAdjoints, kForces, kPhaseCount };

// Scratch of one thread.
template <class T>
struct Scratch {
  Array<T> mixed, x, q, t, s, a, rt, ab, sb, tb, xb, mixedb, h, v, phi;    // a block of atoms
  Array<T> filter, dfilter, along, unit, vector, to_centre, to_neighbour;  // a batch of pairs
  RadialBasis<T> radial;
  std::vector<int> row, atom, source, back_row;
  void fit(const Packed<T> &w) {
    const std::size_t n = limbeck::kBlock, F = w.F, H = w.H, R = w.R, B = kBatch;
    for (Array<T> *b : {&mixed, &mixedb}) b->resize(6 * n * F);
    for (Array<T> *b : {&x, &xb}) b->resize(2 * n * F);
    for (Array<T> *b : {&q, &h}) b->resize(n * F);
    for (Array<T> *b : {&t, &s, &sb, &tb}) b->resize(n * H);
    rt.resize(n * R);
    for (Array<T> *b : {&a, &ab, &phi, &v}) b->resize(3 * n * F);
    radial.fit(w.model.hp.radial);
    for (Array<T> *b : {&filter, &dfilter}) b->resize(3 * kSlice<T> * B);
    along.resize(4 * Lanes<T>::width * B), unit.resize(3 * B), vector.resize(3 * B);
    if (!std::is_arithmetic<T>::value) to_centre.resize(B), to_neighbour.resize(B);
    for (std::vector<int> *b : {&row, &atom, &source, &back_row}) b->resize(B);
  }
};

// A thread's part, and its results.
template <class T>
struct Worker : limbeck::Part {
  std::size_t active = 0;  // pairs within the cutoff
  std::vector<Real<T>> shortest;
  double closest = 0;
  Real<T> virial[9];
  Scratch<T> scratch;
  std::array<double, kPhaseCount> seconds;
};

// Adds its lifetime to a phase's time, on request.
class Timer {
 public:
  template <class W>
  Timer(bool on, W &worker, Phase phase) : seconds_(on ? &worker.seconds[phase] : nullptr) {
    if (on) began_ = std::chrono::steady_clock::now();
  }
  ~Timer() {
    if (seconds_)
      *seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count();
  }

 private:
  double *seconds_;
  std::chrono::steady_clock::time_point began_;
};

template <class T>
struct Buffers {
  using G = Real<T>;
  std::vector<int> first_active, middle_active;  // per centre, entries within the cutoff
  Array<std::uint16_t> active;                   // which of the centre's entries these are
  std::vector<int> back_row;                     // per row: where its adjoint is added up
  Array<G> offset;                               // (images, 3)
  Array<T> sums, back;
  std::vector<Array<T>> source, before, gate;  // before, gate: vectors and gate of each update
  Array<G> force, energy, atom_virial;

  void fit(const limbeck::NeighbourTable &table, const Packed<T> &w, bool exchanged) {
    const std::size_t rows = table.rows(), F = w.F, total = table.total, owned = table.owned;
    // without copying the old values
    const auto fit = [](auto &a, std::size_t n) { a.clear(), a.resize(n); };
    first_active.assign(owned + 1, 0), middle_active.assign(owned, 0);
    fit(active, table.row.size()), fit(offset, 3 * table.images.size());
    fit(sums, rows * 4 * F), fit(force, rows * 3), fit(energy, rows);
    source.resize(w.L), before.resize(w.L), gate.resize(w.L);
    back.assign(w.L > 1 ? table.assign_adjoint_rows(exchanged, back_row) * 5 * F : 0, T(0));
    for (int l = 1; l < w.L; ++l) {
      fit(source[l], total * 6 * F);
      fit(before[l - 1], owned * 3 * F);
      fit(gate[l - 1], owned * w.H);
    }
    atom_virial.clear();
    clear_foreign(total, F);
  }

  // Foreign rows and adjoints are zero between calls.
  void clear_foreign(std::size_t total, std::size_t F) {
    const auto zero = [total](auto &rows, std::size_t width) {
      if (!rows.empty()) std::fill(rows.begin() + total * width, rows.end(), 0);
    };
    zero(sums, 4 * F), zero(force, 3), zero(energy, 1);
    std::fill(back.begin(), back.end(), T(0));
    std::fill(atom_virial.begin(), atom_virial.end(), G(0));
  }

  void release() { *this = Buffers(); }

  std::size_t bytes() const {
    std::size_t sum = (sums.capacity() + back.capacity()) * sizeof(T);
    for (const auto *group : {&source, &before, &gate})
      for (const auto &a : *group) sum += a.capacity() * sizeof(T);
    for (const auto *a : {&first_active, &middle_active, &back_row}) sum += a->capacity() * sizeof(int);
    return sum + active.capacity() * sizeof(active[0]) +
           (force.capacity() + energy.capacity() + atom_virial.capacity()) * sizeof(G);
  }
};

}  // namespace LIMBECK_ISA
