// Peak of float32 multiply-adds on one core: independent chains that stay in registers.
//
// Compiled by inference.py with the flags of the instruction set that Limbeck's dispatch chooses.
#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX2__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif

typedef float V __attribute__((vector_size(kBytes)));

// A multiply-add takes 4 to 5 cycles and two start in each, so at least ten chains are needed; with
// the two constants, 12 still fit into the 16 registers of AVX2.
constexpr int kChains = 12;

extern "C" {

long long limbeck_flops(long long iterations) {
  return iterations * kChains * (kBytes / int(sizeof(float))) * 2;
}

// x <- 0.999 x + 0.001 stays near 1, so no chain meets infinity or subnormal numbers. Where the chains
// start depends on the argument: from a constant 1 the compiler would see that one of them stands still.
float limbeck_multiply_add(long long iterations) {
  const V a = V{} + 0.999f, b = V{} + 0.001f;
  V x[kChains];
#pragma GCC unroll 16
  for (int k = 0; k < kChains; ++k) x[k] = V{} + (1.0f + 1e-9f * float(iterations + k));
  for (long long i = 0; i < iterations; ++i) {
#pragma GCC unroll 16
    for (int k = 0; k < kChains; ++k) x[k] = x[k] * a + b;
  }
  float sum = 0;
  for (int k = 0; k < kChains; ++k)
    for (int lane = 0; lane < kBytes / int(sizeof(float)); ++lane) sum += x[k][lane];
  return sum;
}
}
