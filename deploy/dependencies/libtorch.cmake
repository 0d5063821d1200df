# Target sdp::torch (LibTorch) and the precompiled header of the files that use it.
# Not find_package(Torch): that one asks for a CUDA toolkit, and a worker on CPUs needs just two of the libraries.
include_guard()

if(DEFINED ENV{SDP_LIBTORCH})
  set(libtorch $ENV{SDP_LIBTORCH})
elseif(DEFINED ENV{XDG_CACHE_HOME})
  set(libtorch $ENV{XDG_CACHE_HOME}/sdp/libtorch-2.13.0)
else()
  set(libtorch $ENV{HOME}/.cache/sdp/libtorch-2.13.0)
endif()
if(NOT EXISTS ${libtorch}/lib/libtorch_cpu.so OR NOT EXISTS ${libtorch}/include/torch)
  message(FATAL_ERROR "No LibTorch in ${libtorch}. Get it with deploy/dependencies/install, or let the environment variable "
    "SDP_LIBTORCH name a folder with LibTorch's include/ and lib/. -DSDP_TORCH=OFF builds all but the worker.")
endif()
foreach(folder google/protobuf fmt)
  if(EXISTS ${libtorch}/include/${folder})
    message(FATAL_ERROR "${libtorch}/include/${folder} hides the system's headers of that name, of another version: remove that "
      "folder. Nothing in LibTorch's C++ interface needs it.")
  endif()
endforeach()

foreach(library torch_cpu c10)
  add_library(sdp_${library} SHARED IMPORTED)
  set_target_properties(sdp_${library} PROPERTIES IMPORTED_LOCATION ${libtorch}/lib/lib${library}.so)
endforeach()
add_library(sdp_torch INTERFACE)
add_library(sdp::torch ALIAS sdp_torch)
target_include_directories(sdp_torch SYSTEM INTERFACE ${libtorch}/include ${libtorch}/include/torch/csrc/api/include)
target_link_libraries(sdp_torch INTERFACE sdp_torch_cpu sdp_c10 Threads::Threads)
target_link_options(sdp_torch INTERFACE -Wl,-rpath-link,${libtorch}/lib)  # For GNU ld; mold needs no such help.

if(SDP_CUDA)
  find_package(CUDAToolkit 13 QUIET)
  if(NOT CUDAToolkit_FOUND)
    message(FATAL_ERROR "SDP_CUDA=ON (preset cuda) needs a CUDA 13 toolkit, and none was found: put its bin/ with nvcc on PATH or "
      "set CUDAToolkit_ROOT. The preset release builds a worker for CPUs.")
  endif()
  # Which stream torch works on (libc10_cuda) and CUDA's run time; libtorch_cuda is loaded by the worker that is to use a GPU
  # (worker/model/device.cc). By path and without a definition, so that files compile with the flags of the preset release.
  target_link_libraries(sdp_torch INTERFACE ${libtorch}/lib/libc10_cuda.so ${CUDA_cudart_LIBRARY})
  target_link_options(sdp_torch INTERFACE -Wl,--allow-shlib-undefined)
endif()

# Compiled once (30 s); a file that includes these three headers then takes 4 s instead of 14 s. Include them, not torch/torch.h,
# which adds layers, optimizers and data loaders that nobody here uses: 12 s and half as much memory again for every file.
set(SDP_PCH_OPTIONS)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  set(SDP_PCH_OPTIONS -fpch-preprocess)  # Lets ccache cache files that use the header.
endif()
file(WRITE ${CMAKE_BINARY_DIR}/torch_header.cc.new "// Only here so that the precompiled header has a target.\n")
file(COPY_FILE ${CMAKE_BINARY_DIR}/torch_header.cc.new ${CMAKE_BINARY_DIR}/torch_header.cc ONLY_IF_DIFFERENT)
add_library(sdp_torch_header STATIC EXCLUDE_FROM_ALL ${CMAKE_BINARY_DIR}/torch_header.cc)
target_compile_options(sdp_torch_header PRIVATE ${SDP_WARNINGS} ${SDP_PCH_OPTIONS})
target_link_libraries(sdp_torch_header PUBLIC sdp::torch)
target_precompile_headers(sdp_torch_header PRIVATE <ATen/ATen.h> <torch/autograd.h> <torch/types.h>)
set_target_properties(sdp_torch_header PROPERTIES JOB_POOL_COMPILE torch)
