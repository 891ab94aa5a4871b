// What differs between CUDA's language and HIP's: what the lanes of a warp say to each other. A warp is the 32 lanes
// that compute a row: on AMD's processors a wavefront, or one half of a wavefront of 64, whose halves compute a row
// each.
#pragma once

#define SO3KRATES_INLINE __device__ __forceinline__

namespace so3krates {

constexpr int kWarp = 32;

SO3KRATES_INLINE int lane_of_thread() {
  return threadIdx.x % kWarp;
}

// All lanes of a warp call these together; the other half of a wavefront may be elsewhere. lane_xor: the value of the
// lane whose number differs in these bits; lane_value: of this lane; ballot: a bit for each lane of the warp.
#ifdef __HIP__
template <typename T>
SO3KRATES_INLINE T lane_xor(T value, int bits) {
  return __shfl_xor(value, bits, kWarp);
}
template <typename T>
SO3KRATES_INLINE T lane_value(T value, int lane) {
  return __shfl(value, lane, kWarp);
}
SO3KRATES_INLINE unsigned ballot(bool value) {
  return static_cast<unsigned>(__ballot(value) >> (__lane_id() / kWarp * kWarp));
}
// A wavefront's lanes go together; what they write to memory must be there, and the compiler must not move it.
SO3KRATES_INLINE void sync_warp() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "wavefront");
  __builtin_amdgcn_wave_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "wavefront");
}
#else
constexpr unsigned kAll = 0xffffffffu;
template <typename T>
SO3KRATES_INLINE T lane_xor(T value, int bits) {
  return __shfl_xor_sync(kAll, value, bits);
}
template <typename T>
SO3KRATES_INLINE T lane_value(T value, int lane) {
  return __shfl_sync(kAll, value, lane);
}
SO3KRATES_INLINE unsigned ballot(bool value) {
  return __ballot_sync(kAll, value);
}
SO3KRATES_INLINE void sync_warp() {
  __syncwarp();
}
#endif

}  // namespace so3krates
