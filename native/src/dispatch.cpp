// Chooses the widest instruction set that both the build and the machine have.
#include <algorithm>
#include <cmath>

#include "limbeck/engine.hpp"
#include "limbeck/trainer.hpp"

#define LIMBECK_DECLARE(ISA)                                                                 \
  namespace ISA {                                                                            \
  template <class T>                                                                         \
  std::unique_ptr<limbeck::Trainer<T>> make(const limbeck::Hyperparameters &, int);          \
  std::unique_ptr<limbeck::Engine> make_one_engine(const limbeck::Model &, limbeck::Scalar); \
  }

LIMBECK_DECLARE(limbeck_portable)
#ifdef LIMBECK_X86
LIMBECK_DECLARE(limbeck_avx2)
LIMBECK_DECLARE(limbeck_avx512)
#endif

namespace limbeck {

bool runs_here(const std::string &name) {
  if (name == "portable") return true;
#ifdef LIMBECK_X86
  if (name == "avx2") return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (name == "avx512")
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
#endif
  return false;
}

std::string best_instruction_set() {
  for (const char *name : {"avx512", "avx2"})
    if (runs_here(name)) return name;
  return "portable";
}

#ifdef LIMBECK_TRAINER
template <class T>
std::unique_ptr<Trainer<T>> make_trainer(const Hyperparameters &hp, int threads, const std::string &name) {
  if (!runs_here(name)) throw std::invalid_argument("this machine does not run the instruction set " + name);
#ifdef LIMBECK_X86
  if (name == "avx512") return limbeck_avx512::make<T>(hp, threads);
  if (name == "avx2") return limbeck_avx2::make<T>(hp, threads);
#endif
  return limbeck_portable::make<T>(hp, threads);
}

template std::unique_ptr<Trainer<float>> make_trainer(const Hyperparameters &, int, const std::string &);
template std::unique_ptr<Trainer<double>> make_trainer(const Hyperparameters &, int, const std::string &);
#endif

const std::vector<std::string> kPhases = {"geometry",         "filters",         "messages", "updates",
                                          "message adjoints", "update adjoints", "forces"};

void Model::check() const {
  const std::size_t Z = std::size_t(hp.elements);
  if (weights.size() != ParameterLayout(hp).total) throw std::invalid_argument("weights: wrong number");
  if (numbers.size() != Z || references.size() != Z || zbl_radius.size() != Z * Z)
    throw std::invalid_argument("numbers, references, zbl_radius: wanted (Z,), (Z,), (Z, Z)");
  for (const auto *values : {&weights, &references, &zbl_radius})
    for (double x : *values)
      if (!std::isfinite(x)) throw std::invalid_argument("weights, references or radii are not finite");
  for (std::size_t a = 0; a < Z; ++a)
    for (std::size_t b = 0; b < Z; ++b)
      if (zbl_radius[a * Z + b] < 0 || zbl_radius[a * Z + b] != zbl_radius[b * Z + a])
        throw std::invalid_argument("zbl_radius: wanted a symmetric table without negative entries");
}

std::unique_ptr<Engine> make_engine(const Model &given, Scalar scalar, const std::string &name) {
  if (!runs_here(name)) throw std::invalid_argument("this machine does not run the instruction set " + name);
  Model model = given;
  model.check();
  model.longest_zbl = 0;
  for (double r : model.zbl_radius) model.longest_zbl = std::max(model.longest_zbl, r);
#ifdef LIMBECK_X86
  if (name == "avx512") return limbeck_avx512::make_one_engine(model, scalar);
  if (name == "avx2") return limbeck_avx2::make_one_engine(model, scalar);
#endif
  return limbeck_portable::make_one_engine(model, scalar);
}

}  // namespace limbeck
