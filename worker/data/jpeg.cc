#include "worker/data/jpeg.h"

#include <csetjmp>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "worker/data/libjpeg.h"

namespace sdp {
namespace {

// libjpeg at work on one file. It leaves its functions by longjmp when something is wrong, over
// frames of C alone: in the two functions that call it no object with a destructor lives.
class Decoder {
 public:
  explicit Decoder(absl::string_view bytes) : bytes_(bytes) {
    info_.err = jpeg_std_error(&errors_);
    info_.client_data = this;
    errors_.error_exit = Escape;
    errors_.emit_message = EscapeIfDamaged;
  }
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;
  ~Decoder() { jpeg_destroy_decompress(&info_); }  // Of one that was not created: does nothing.

  // Both return false when something is wrong, which error() then says.
  bool ReadHeader();
  bool ReadPixels(unsigned char* pixels);  // [height, width, channels]

  int64_t height() const { return info_.image_height; }
  int64_t width() const { return info_.image_width; }
  int64_t channels() const { return IsCmyk() ? 4 : 3; }
  const char* error() const { return error_; }

 private:
  bool IsCmyk() const {
    return info_.jpeg_color_space == JCS_CMYK || info_.jpeg_color_space == JCS_YCCK;
  }
  [[noreturn]] static void Escape(j_common_ptr info) {
    auto& decoder = *static_cast<Decoder*>(info->client_data);
    decoder.errors_.format_message(info, decoder.error_);
    std::longjmp(decoder.escape_, 1);
  }
  // `level` -1: a warning; others are of no interest.
  static void EscapeIfDamaged(j_common_ptr info, int level) {
    if (level >= 0) return;
    switch (info->err->msg_code) {
      case JWRN_ADOBE_XFORM:      // It guesses well.
      case JWRN_EXTRANEOUS_DATA:  // Between markers, where no pixels are.
      case JWRN_JFIF_MAJOR:       // An unknown version.
        return;
      default:
        Escape(info);
    }
  }

  const absl::string_view bytes_;
  jpeg_decompress_struct info_ = {};
  jpeg_error_mgr errors_ = {};
  std::jmp_buf escape_;
  char error_[JMSG_LENGTH_MAX] = {};
};

bool Decoder::ReadHeader() {
  if (setjmp(escape_) != 0) return false;
  jpeg_create_decompress(&info_);
  jpeg_mem_src(&info_, reinterpret_cast<const unsigned char*>(bytes_.data()), bytes_.size());
  jpeg_read_header(&info_, /*require_image=*/TRUE);
  info_.out_color_space = IsCmyk() ? JCS_CMYK : JCS_RGB;
  return true;
}

bool Decoder::ReadPixels(unsigned char* pixels) {
  if (setjmp(escape_) != 0) return false;
  jpeg_start_decompress(&info_);
  while (info_.output_scanline < info_.output_height) {
    JSAMPROW row = pixels + info_.output_scanline * width() * channels();
    jpeg_read_scanlines(&info_, &row, 1);
  }
  jpeg_finish_decompress(&info_);  // Looks whether the file ends as it should.
  return true;
}

std::vector<unsigned char> CmykToRgb(const std::vector<unsigned char>& cmyk) {
  std::vector<unsigned char> rgb(cmyk.size() / 4 * 3);
  for (size_t i = 0; i < rgb.size(); ++i) {
    const size_t pixel = i / 3 * 4;
    rgb[i] = static_cast<unsigned char>((cmyk[pixel + i % 3] * cmyk[pixel + 3] + 127) / 255);
  }
  return rgb;
}

}  // namespace

absl::StatusOr<RgbImage> DecodeJpeg(absl::string_view bytes) {
  Decoder decoder(bytes);
  if (!decoder.ReadHeader()) return absl::InvalidArgumentError(decoder.error());
  RgbImage image{.height = decoder.height(), .width = decoder.width(), .pixels = {}};
  if (image.height * image.width > kMostJpegPixels) {
    return absl::InvalidArgumentError(absl::StrCat(
        image.width, " x ", image.height, " pixels: more than the ", kMostJpegPixels, " allowed"));
  }
  image.pixels.resize(static_cast<size_t>(image.height * image.width * decoder.channels()));
  if (!decoder.ReadPixels(image.pixels.data())) return absl::InvalidArgumentError(decoder.error());
  if (decoder.channels() == 4) image.pixels = CmykToRgb(image.pixels);
  return image;
}

}  // namespace sdp
