// Energies, forces and weight gradients for batches of training structures.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "limbeck/model.hpp"

namespace limbeck {

// All structures of a training set, laid end to end; indices in pairs count from the structure's
// first atom.
struct TrainingSet {
  std::vector<int> species;             // (N,)
  std::vector<long long> atom_offsets;  // (S + 1,)
  std::vector<int> first, second;       // (P,)
  std::vector<double> vectors;          // (P, 3)
  std::vector<long long> pair_offsets;  // (S + 1,)
  Graph graph(long long s) const {
    Graph g;
    g.atoms = int(atom_offsets[s + 1] - atom_offsets[s]);
    g.pairs = int(pair_offsets[s + 1] - pair_offsets[s]);
    g.species = species.data() + atom_offsets[s];
    g.first = first.data() + pair_offsets[s];
    g.second = second.data() + pair_offsets[s];
    g.vectors = vectors.data() + 3 * pair_offsets[s];
    return g;
  }
};

template <class T>
class Trainer {
 public:
  virtual ~Trainer() = default;
  virtual void set_structures(std::shared_ptr<const TrainingSet>) = 0;
  virtual void set_weights(const T *weights) = 0;  // flat, in the order of model.hpp
  // Outputs follow the order of `chosen`.
  virtual void evaluate(const std::vector<long long> &chosen, double *energy, double *forces, double *virial,
                        double *atom_energy) = 0;
  // Gradient of a loss on the outputs of the last evaluate(); overwrites `gradient`.
  virtual void gradient(const double *grad_energy, const double *grad_forces, const double *grad_virial,
                        T *gradient) = 0;
};

template <class T>
std::unique_ptr<Trainer<T>> make_trainer(const Hyperparameters &, int threads,
                                         const std::string &instruction_set);

}  // namespace limbeck
