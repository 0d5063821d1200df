#pragma once

// libjpeg-turbo's headers, which do not include what they need and so have an order.
// clang-format off
#include <cstddef>
#include <cstdio>
#include <jpeglib.h>
#include <jerror.h>
// clang-format on
