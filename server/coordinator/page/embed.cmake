# cmake -DOUTPUT=assets.cc -DFILES=a.html;b.js -P embed.cmake: C++ with the files' bytes, as assets.h declares them.
set(arrays)
set(table)
set(number 0)
foreach(file ${FILES})
  file(READ ${file} bytes HEX)
  string(REGEX REPLACE "(..)" "0x\\1," bytes "${bytes}")
  cmake_path(GET file FILENAME name)
  string(APPEND arrays "const unsigned char kFile${number}[] = {${bytes}};\n")
  string(APPEND table "      {\"/${name}\", {reinterpret_cast<const char*>(kFile${number}), sizeof(kFile${number})}},\n")
  math(EXPR number "${number} + 1")
endforeach()
file(WRITE ${OUTPUT} "#include \"server/coordinator/page/assets.h\"

namespace sdp {
namespace {

${arrays}
}  // namespace

absl::Span<const Asset> PageAssets() {
  static const Asset kAssets[] = {
${table}  };
  return kAssets;
}

}  // namespace sdp
")
