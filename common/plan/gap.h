#pragma once

#include "common/model/catalog.h"
#include "common/plan/plan.h"

// How well a plan mixes what its workers learn, from the overlap of their subnetworks.
namespace sdp {

enum class SharedUnits { kCounted, kIgnored };

// True if one can go from any worker to any other over workers that hold a unit in common. Shared
// units connect everybody, so only the answer without them says something. A model without any unit
// that is not shared counts as connected.
bool Connected(const Catalog& catalog, const Plan& plan, SharedUnits shared);

enum class UnitWeight { kEqual, kParams };

// More workers than this: by Lanczos' method.
inline constexpr int kMaxDenseWorkers = 64;

// The spectral gap rho = 1 - lambda_2(W) of the walk worker -> unit -> worker: W_ik = sum over the
// units j of both of w_j / p_j / sqrt(d_i d_k), d_i = sum of w_j over the units of i, w_j = 1 or
// parameters. In [0, 1]: 1 - rho is the largest share of the workers' disagreement that averaging
// over holders lets through. 0 if not connected, 1 if all hold everything (and for one worker).
// N workers, B units: O(N^3) up to kMaxDenseWorkers. Above them the sum of holders over units
// (fewer, where units have the same holders) times some ten to a few hundred steps, and 1e-6 exact;
// NaN if that many steps are not enough (common/plan/eigenvalues.h).
double SpectralGap(const Catalog& catalog, const Plan& plan, UnitWeight weight, SharedUnits shared);

// The largest gap that p holders of N workers can have: N (p - 1) / (p (N - 1)). Precondition: N
// > 1.
double LargestGap(int workers, int holders);

}  // namespace sdp
