// Chooses the widest instruction set that both the build and the machine have.
#include "limbeck/trainer.hpp"

#define LIMBECK_DECLARE(ISA)                                                        \
  namespace ISA {                                                                   \
  template <class T>                                                                \
  std::unique_ptr<limbeck::Trainer<T>> make(const limbeck::Hyperparameters &, int); \
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

}  // namespace limbeck
