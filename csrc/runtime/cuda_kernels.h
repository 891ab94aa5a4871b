// The fused kernels for a GPU (../kernels/cuda/kernels.cu): compiled by NVRTC for the network and the GPU at hand when
// a program first calls them, then kept on disk. Nothing here needs CUDA to build.
#pragma once

#include <string>
#include <vector>

namespace so3krates::cuda {

// Of the kernels' arguments: a bundle names the version that its programs call.
constexpr int kKernelVersion = 4;
constexpr int kOldestKernelVersion = 3;  // whose kernels these are too, but for those of SO3LR

// Why programs that call kernels of that version, which need that much shared memory for a block, cannot run on that
// device; empty where they can. Compiles and loads the kernels for all `sizes`, as compile_kernels takes them.
std::string kernel_problem(int version, int shared_bytes, const std::vector<std::string>& sizes, int device);

// Machine code of the kernels. sizes: definitions that come before their source; architecture: e.g. "sm_90". Throws
// Error with the compiler's first line where it refuses. resources: set to what the assembler says of registers and
// memory.
std::string compile_kernels(const std::string& sizes, const std::string& architecture,
                            std::string* resources = nullptr);

// From now on: folder of compiled kernels, as of ProgramCache; the PJRT plugin beside which NVRTC may lie.
void set_places(const std::string& cache, const std::string& plugin);

// XLA's name of the custom call, and its handler (XLA_FFI_Handler*) for a platform with streams, or without: the latter
// is for tests, whose driver runs kernels on the host.
constexpr const char* kCall = "so3krates_cuda";
void* kernel_handler(bool has_streams);

}  // namespace so3krates::cuda
