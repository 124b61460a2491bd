// The inference engine: energies, forces, virial and Hessian-vector products of a student.
//
// An Engine holds packed weights and is shared; a System holds one evolving structure (its neighbour
// list with a skin and every buffer) and belongs to one caller at a time. Nothing here depends on
// Python, MPI or LAMMPS: a host that distributes atoms over processes provides an Exchange.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "limbeck/model.hpp"

namespace limbeck {

// What is evaluated: weights (flat, in the order of ParameterLayout) and the fixed baseline.
struct Model {
  Hyperparameters hp{};
  std::vector<double> weights;
  std::vector<int> numbers;        // (Z,) atomic number of each species
  std::vector<double> references;  // (Z,) eV
  std::vector<double> zbl_radius;  // (Z, Z) Angstrom, 0 where none
  double longest_zbl = 0;
  void check() const;  // throws std::invalid_argument
};

// Pairs within cutoff + skin. Atoms below `owned` are centres; the rest are copies of atoms that another
// process owns. An undirected pair of two owned atoms is listed once; a pair of an owned atom with a copy
// is listed by the owner of each. shift counts cell vectors: x_second + shift @ cell - x_first.
struct NeighbourList {
  int owned = 0, total = 0;
  const int *species = nullptr;  // (total,)
  std::size_t pairs = 0;
  const int *first = nullptr, *second = nullptr;  // (pairs,)
  const int *shift = nullptr;                     // (pairs, 3) or null
  double skin = 0;                                // Angstrom
  const double *positions = nullptr;              // (total, 3) at which it was made
  const double *cell = nullptr;                   // (3, 3), rows
  bool fully_periodic = false;
};

// What a host that distributes atoms over processes does between layers: copy rows of owned atoms to their
// copies elsewhere, or add the rows of copies to their owners. Row k starts at rows + k * stride values; a
// value has `bytes` bytes (4: float, 8: double); the copies' rows follow the `owned` ones.
class Exchange {
 public:
  virtual ~Exchange() = default;
  virtual void forward(void *rows, int bytes, int width, int stride) = 0;
  virtual void reverse(void *rows, int bytes, int width, int stride) = 0;
};

struct Results {
  double energy = 0;                // eV
  double virial[9] = {};            // dE/d(strain), eV, symmetric
  std::vector<double> forces;       // (total, 3) eV/Angstrom
  std::vector<double> atom_energy;  // (owned,) eV
  std::vector<double> atom_virial;  // (total, 9) eV, only on request; half of a pair's for each atom
  std::vector<double> shortest;     // (Z, Z) Angstrom, the closest pair of each two species, infinite if none
  std::vector<double> seconds;      // of each phase, only on request
  bool want_atom_virial = false, want_seconds = false;
};

extern const std::vector<std::string> kPhases;

class System {
 public:
  virtual ~System() = default;
  virtual void set_list(const NeighbourList &) = 0;
  // Releases the memory of list and buffers, before a new list is made for a large structure.
  virtual void release() = 0;
  // For lists with copies of other processes' atoms, before set_list(); forces on copies then come back in
  // Results::forces.
  virtual void set_exchange(Exchange *) = 0;
  // Whether the list still holds every pair within the cutoff.
  virtual bool covers(const double *positions, const double *cell) const = 0;
  virtual void evaluate(const double *positions, const double *cell, Results &) = 0;
  // The derivative of the forces along `direction` (total, 3), with the sign of the Hessian; dual numbers
  // only.
  virtual void hessian_product(const double *positions, const double *cell, const double *direction,
                               double *product) = 0;
  // (total, 9) eV: W_i = sum_k (r_k - r_i) dU_k/dr_i, all nine components, rows the displacement, over the
  // atomic energies U_k (Surblys et al. 2019, Phys. Rev. E 99, 051301; for message passing Langer et al.
  // 2023, Phys. Rev. B 108, L100302). Displacements are added up edge by edge, so that no image enters. Dual
  // numbers only; what belongs to another process's atom is in its copy's row.
  virtual void centroid_virial(const double *positions, const double *cell, double *virial) = 0;
  virtual std::size_t bytes() const = 0;
};

class Engine {
 public:
  virtual ~Engine() = default;
  virtual std::unique_ptr<System> system(int threads) const = 0;
};

// Instruction set chosen at run time: "avx512", "avx2" or "portable" (also the accepted names).
std::string best_instruction_set();
bool runs_here(const std::string &instruction_set);

enum class Scalar { f32, f64, dual };
std::unique_ptr<Engine> make_engine(const Model &, Scalar, const std::string &instruction_set);

}  // namespace limbeck
