#pragma once

namespace sdp {

// Whether this build looks at every access to memory (clang's sanitizers): it is slow then, a time
// says nothing, and a test of random cases tries a few of them.
#if defined(__has_feature)
inline constexpr bool kSanitized =
    __has_feature(address_sanitizer) || __has_feature(thread_sanitizer);
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace sdp
