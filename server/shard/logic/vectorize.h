#pragma once

// For loops over elements that do not depend on each other, at the speed of memory. The results are
// those of the plain loop whatever the width of the vectors, since no sum's order changes and
// nothing is contracted (-ffp-contract=off).
//
// SDP_VECTORIZE: before a function; compiled also for AVX2 and chosen when the program starts.
// SDP_INDEPENDENT: before a loop in it; pointers may be equal, but never overlap otherwise.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define SDP_VECTORIZE __attribute__((target_clones("default", "avx2")))
#define SDP_INDEPENDENT _Pragma("GCC ivdep")
#else
#define SDP_VECTORIZE
#define SDP_INDEPENDENT
#endif
