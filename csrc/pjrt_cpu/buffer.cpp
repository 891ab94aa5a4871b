// PJRT_Buffer: arrays from host memory, uninitialised arrays, and reading them.
#include <cstring>

#include "handles.h"
#include "xla/shape.h"

namespace so3krates::pjrt_cpu {
namespace {

absl::StatusOr<xla::PrimitiveType> primitive_type(PJRT_Buffer_Type type) {
  switch (type) {
    case PJRT_Buffer_Type_U8:
      return xla::U8;
    case PJRT_Buffer_Type_S32:
      return xla::S32;
    case PJRT_Buffer_Type_F32:
      return xla::F32;
    case PJRT_Buffer_Type_F64:
      return xla::F64;
    default:
      return absl::UnimplementedError(absl::StrCat("arrays of PJRT_Buffer_Type ", static_cast<int>(type)));
  }
}

PJRT_Error* from_host(PJRT_Client_BufferFromHostBuffer_Args* args) {
  if (args->memory != nullptr || args->device_layout != nullptr || args->num_byte_strides != 0)
    return to_error(absl::UnimplementedError("memories, layouts and strides of one's own"));
  const absl::StatusOr<xla::PrimitiveType> type = primitive_type(args->type);
  if (!type.ok()) return to_error(type.status());
  const absl::StatusOr<xla::PjRtMemorySpace*> memory = args->device->device->default_memory_space();
  if (!memory.ok()) return to_error(memory.status());
  auto [released, release_event] = xla::MakePromise<>();
  absl::StatusOr<std::unique_ptr<xla::PjRtBuffer>> buffer = args->client->client->BufferFromHostBuffer(
      args->data, *type, absl::MakeConstSpan(args->dims, args->num_dims), /*byte_strides=*/std::nullopt,
      static_cast<xla::PjRtClient::HostBufferSemantics>(args->host_buffer_semantics),
      [promise = std::move(released)]() mutable { promise.Set(absl::OkStatus()); }, *memory, /*device_layout=*/nullptr);
  if (!buffer.ok()) return to_error(buffer.status());
  args->buffer = new PJRT_Buffer{*std::move(buffer), args->client};
  args->done_with_host_buffer = to_event(std::move(release_event));
  return nullptr;
}

PJRT_Error* uninitialised(PJRT_Client_CreateUninitializedBuffer_Args* args) {
  if (args->memory != nullptr || args->shape_layout != nullptr)
    return to_error(absl::UnimplementedError("memories and layouts of one's own"));
  const absl::StatusOr<xla::PrimitiveType> type = primitive_type(args->shape_element_type);
  if (!type.ok()) return to_error(type.status());
  const absl::StatusOr<xla::PjRtMemorySpace*> memory = args->device->device->default_memory_space();
  if (!memory.ok()) return to_error(memory.status());
  absl::StatusOr<std::unique_ptr<xla::PjRtBuffer>> buffer = args->client->client->CreateUninitializedBuffer(
      xla::Shape(*type, absl::MakeConstSpan(args->shape_dims, args->shape_num_dims)), *memory);
  if (!buffer.ok()) return to_error(buffer.status());
  args->buffer = new PJRT_Buffer{*std::move(buffer), args->client};
  return nullptr;
}

PJRT_Error* destroy(PJRT_Buffer_Destroy_Args* args) {
  delete args->buffer;
  return nullptr;
}

PJRT_Error* ready_event(PJRT_Buffer_ReadyEvent_Args* args) {
  args->event = to_event(args->buffer->buffer->GetReadyFuture());
  return nullptr;
}

PJRT_Error* unsafe_pointer(PJRT_Buffer_UnsafePointer_Args* args) {
  const absl::StatusOr<std::uintptr_t> pointer =
      args->buffer->client->client->UnsafeBufferPointer(args->buffer->buffer.get());
  if (!pointer.ok()) return to_error(pointer.status());
  args->buffer_pointer = *pointer;
  return nullptr;
}

// Copies before it returns: XLA's own copy goes through a thread pool, which takes longer than most copies.
PJRT_Error* copy_raw_to_host(PJRT_Buffer_CopyRawToHost_Args* args) {
  xla::PjRtBuffer* buffer = args->buffer->buffer.get();
  const absl::Status computed = buffer->GetReadyFuture().Await();
  if (!computed.ok()) return to_error(computed);
  const absl::StatusOr<std::size_t> bytes = buffer->GetOnDeviceSizeInBytes();
  if (!bytes.ok()) return to_error(bytes.status());
  const auto size = static_cast<std::int64_t>(*bytes);
  if (args->offset < 0 || args->transfer_size < 0 || args->offset > size || args->transfer_size > size - args->offset)
    return to_error(absl::OutOfRangeError(absl::StrCat("the array has ", size, " bytes; ", args->transfer_size,
                                                       " from byte ", args->offset, " were asked for")));
  const absl::StatusOr<std::uintptr_t> pointer = args->buffer->client->client->UnsafeBufferPointer(buffer);
  if (!pointer.ok()) return to_error(pointer.status());
  std::memcpy(args->dst, reinterpret_cast<const char*>(*pointer) + args->offset, args->transfer_size);
  args->event = to_event(xla::Future<>(absl::OkStatus()));
  return nullptr;
}

}  // namespace

void add_buffers(PJRT_Api& api) {
  api.PJRT_Client_BufferFromHostBuffer = from_host;
  api.PJRT_Client_CreateUninitializedBuffer = uninitialised;
  api.PJRT_Buffer_Destroy = destroy;
  api.PJRT_Buffer_ReadyEvent = ready_event;
  api.PJRT_Buffer_UnsafePointer = unsafe_pointer;
  api.PJRT_Buffer_CopyRawToHost = copy_raw_to_host;
}

}  // namespace so3krates::pjrt_cpu
