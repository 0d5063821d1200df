#pragma once

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "worker/data/jpeg.h"
#include "worker/data/libjpeg.h"

// JPEG files that tests make.
namespace sdp {

struct JpegToWrite {
  int height = 0, width = 0;
  J_COLOR_SPACE pixels_are = JCS_RGB;    // and so many channels there are
  J_COLOR_SPACE file_has = JCS_UNKNOWN;  // UNKNOWN: what libjpeg chooses
  bool progressive = false;
  int quality = 100;
};

// `pixels` [height, width, channels]. Colors are not halved in resolution.
inline std::string EncodeJpeg(const JpegToWrite& as, const std::vector<unsigned char>& pixels) {
  jpeg_error_mgr errors;
  jpeg_compress_struct info;
  info.err = jpeg_std_error(&errors);
  jpeg_create_compress(&info);
  unsigned char* bytes = nullptr;
  unsigned long size = 0;  // NOLINT(runtime/int): jpeglib.h's
  jpeg_mem_dest(&info, &bytes, &size);
  const int channels = as.pixels_are == JCS_GRAYSCALE ? 1 : as.pixels_are == JCS_CMYK ? 4 : 3;
  info.image_height = static_cast<JDIMENSION>(as.height);
  info.image_width = static_cast<JDIMENSION>(as.width);
  info.input_components = channels;
  info.in_color_space = as.pixels_are;
  jpeg_set_defaults(&info);
  if (as.file_has != JCS_UNKNOWN) jpeg_set_colorspace(&info, as.file_has);
  info.comp_info[0].h_samp_factor = info.comp_info[0].v_samp_factor = 1;
  if (channels == 4) info.comp_info[3].h_samp_factor = info.comp_info[3].v_samp_factor = 1;
  jpeg_set_quality(&info, as.quality, TRUE);
  if (as.progressive) jpeg_simple_progression(&info);
  jpeg_start_compress(&info, TRUE);
  while (info.next_scanline < info.image_height) {
    auto* row = const_cast<unsigned char*>(pixels.data()) +
                info.next_scanline * info.image_width * static_cast<unsigned>(channels);
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  std::string file(reinterpret_cast<const char*>(bytes), size);
  jpeg_destroy_compress(&info);
  std::free(bytes);
  return file;
}

inline std::string EncodeJpeg(const RgbImage& image) {
  return EncodeJpeg(
      {.height = static_cast<int>(image.height), .width = static_cast<int>(image.width)},
      image.pixels);
}

// Slow waves, which survive a JPEG file within a few levels; others for another `seed`.
inline RgbImage Waves(int64_t height, int64_t width, int seed) {
  RgbImage image{.height = height, .width = width, .pixels = {}};
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      for (int64_t c = 0; c < 3; ++c) {
        const int64_t place = (y * (3 + c) + x * (5 - c) + 37 * seed + 50 * c) % 400;
        image.pixels.push_back(
            static_cast<unsigned char>(28 + (place < 200 ? place : 400 - place)));
      }
    }
  }
  return image;
}

}  // namespace sdp
