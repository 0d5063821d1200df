#pragma once

#include <cstdint>

// Normally distributed numbers whose bits depend on neither compiler nor C library: IEEE additions,
// multiplications, divisions and square roots only (compiled with -ffp-contract=off). libm's log
// and cos differ between versions.
namespace sdp {

// Natural logarithm; relative error below 1e-15. Precondition: `x` is a positive normal number.
double Log(double x);

struct CosSin {
  double cos = 0;
  double sin = 0;
};
// Of 2 pi `turns`; error below 1e-15, relative too. Precondition: 0 <= turns < 1.
CosSin CosSinOfTurns(double turns);

// Two independent N(0, 1): the `index`-th pair of the stream (seed, stream). Box-Muller.
struct NormalPair {
  double first = 0;
  double second = 0;
};
NormalPair StandardNormals(uint64_t seed, uint64_t stream, uint64_t index);

}  // namespace sdp
